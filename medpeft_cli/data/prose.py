"""The parts of docs/datasets.md that no card says; `document` puts them together."""

INTRODUCTION = """\
# Datasets

<!-- Written by `python -m medpeft_cli.data.document > docs/datasets.md`; a test compares. Edit the cards, or that module. -->

A dataset card is a small YAML file: where files and labels lie, which classes there are, how the pictures are split.
`medpeft prepare CARD` says what a dataset is, its licence, how to get it and which files are needed; with `--source DIR` it turns
the download into a prepared dataset, `data/<card>`; a recipe names the card (`data: {card: isic}`). medpeft downloads
nothing, asks for no password and never changes the source.

`medpeft prepare CARD --source DIR --list-files` prints only the pictures that are needed, by the tables alone, one a line,
for `wget -i` and the like; `--views`, `--splits` and `--fraction` make it fewer.
"""

PREPARE = """\
## What prepare does

1. **List** the pictures of the source as the card's layout says. A path in a table, or a link, that leads out of the source
   is an error; archives are read and never unpacked.
2. **Decode** each picture once (below), and shrink it to a short side of at most `--size` pixels (256): bicubic,
   antialiased, aspect kept, never enlarged. Unreadable pictures are an error (exit code 3), and all
   of them are listed with their reasons in `unreadable.csv`; `--allow-bad N` lets N of them go. What the files hold (grey, RGBA,
   16-bit grey, DICOM, …) is counted, and where kinds differ the odd ones are named.
3. **Check**. Pictures with the same pixels under two labels are left out. Pictures with the same pixels under one label, and
   near-duplicates (perceptual hash, confirmed on pixels), share a group. A number of pictures other than `expected` is a
   warning.
4. **Split** into train, val and test. Without an official split: stratified by class, no group in two splits, every class in
   every split; it depends on the ids, the groups and the seed, not on the order of files. A picture of several classes
   counts for the rarest of them. An official split is kept; a picture that is also in a more protected split (same group, same
   pixels or near-duplicate; test before val before train) is an error with a list (`leaks.csv`), until `--on-leak` moves it there,
   drops or allows it. A val or test that the source lacks is taken from train.
5. **Write** `manifest.csv` (one row a picture: id, file, label, split, group, size, text, further columns), `images/` (the
   pixels), `dataset.json` (counts, seed, everything that was left out and why, and a hash of the whole), `report.html`
   (counts, samples, sizes, duplicates), and `duplicates.csv` and `leaks.csv` where there are any; all or nothing.

Nothing is lost silently: what was left out is counted on the screen and listed by file and reason in `dataset.json`. The
same command on the same files does nothing; `--check` says what would be made and writes nothing. A backbone that
reads more pixels than were packed is refused with the `--size` it needs.

## How pictures are decoded

PNG, JPEG, BMP, TIFF, WebP, GIF, PGM/PPM and DICOM (`.dcm`, `.dicom`, or any other name: it is known by its first bytes).

| Picture | Becomes |
|---|---|
| 8-bit grey, RGB | as it is; RGB with three equal channels is stored as grey |
| 1 bit | 0 and 255 |
| palette, YCbCr, CMYK, LAB | Pillow's conversion to RGB |
| alpha (RGBA, grey with alpha, transparent palette) | laid over black |
| grey of 16 or 32 bits, or float | linear, from the picture's own minimum (0) to its maximum (255) |
| RGB of 16 bits | the high byte |
| EXIF orientation | applied |
| several frames (GIF, TIFF) | the first |
| DICOM | rescale, then the first window, whose two ends become 0 and 255; without a window as other grey; MONOCHROME1 inverted; \
more than one frame is an error |

Training sees RGB: grey is repeated three times.

## How texts are read

- **Sections.** With `sections: [impression, findings]` the first of them that a report has is the text. Headings are known
  in any case with a colon, with a dash, in capitals alone on their line, as Markdown, or in capitals with a colon within a line;
  conclusion, opinion, interpretation and summary count as impression, observations as findings, "findings and impression"
  as both. What stands before FINAL REPORT (wet reads, addenda) and an addendum behind the report are no part of it.
  Line ends become blanks.
- **De-identification marks** (`___`, also `[** … **]` and `XXXX`) are counted, and taken out together with the
  title and prepositions right before them: "Discussed with Dr. ___ at ___." becomes "Discussed." `marks: keep` leaves
  them, and a model may learn to write them.
- **Length.** Texts are counted in tokens of CLIP's text encoder, and how many exceed the 77 it reads; nothing is cut here.

A picture without a text is left out of a card with `task: text`, and listed. The counts are in `dataset.json` under `texts`, the
texts in the column `text` of `manifest.csv`.
"""

OWN = """\
## Your own data

Write a card, prepare, fine-tune. Give the file the card's name: the dataset goes to `data/<name>`, and a recipe that
names the card by its path looks in `data/<file name without .yaml>`.

```
medpeft prepare lesions.yaml --init-card ~/pictures          # drafts lesions.yaml from what is there; look it through
medpeft prepare lesions.yaml --source ~/pictures --check     # what would be made
medpeft prepare lesions.yaml --source ~/pictures
medpeft finetune recipes/isic_lora.yaml --set data.card=lesions.yaml
```

`recipes/extra/own_data.yaml` is a recipe to start from, and [recipes/extra/cards](../recipes/extra/cards) holds cards of
six public datasets. A card without `licence`, `citation` and `url` is fine; `access` is `own` unless you say otherwise.

### A folder per class

```
pictures/benign/P0017_1.png      pictures/malignant/P0003_1.png
pictures/benign/P0017_2.png      pictures/malignant/P0003_2.png …
```

```yaml
name: lesions
title: My lesions
modality: dermatoscopy
classes: [benign, malignant]             # in the order of the classifier's outputs
layout:
  kind: class_folders
  group_pattern: '^(P\\d+)_'              # P0017_2.png belongs to P0017: all its pictures stay in one split
split: {group: patient, fractions: [0.7, 0.15, 0.15], seed: 0}
```

- Folders may lie deeper (`benign/2021/x.png`); a folder that is no class is left out and listed.
- Folder names that differ from the classes: `labels: {Benign lesions: benign, MM: malignant}`.
- Masks beside the pictures: `mask_pattern: '_mask\\.png$'`.
- DICOM files: `group_tag: PatientID` takes the patient from the header.
- `split.group` only says what a group is called; what decides is `group_pattern`, or the column `group` of a table. Without
  either each picture is its own group. Patients in two splits make a test score that is too good: give the pattern.

### Ready splits

```
Train/benign/…  Train/malignant/…  Test/benign/…  Test/malignant/…
```

```yaml
name: ready
title: With a test folder
modality: dermatoscopy
classes: [benign, malignant]
layout:
  kind: class_folders
  splits: {train: Train, test: Test}     # no val: it is taken from Train, by the ratio of split.fractions
```

`split: {rule: stratified}` ignores the folders and divides all pictures anew.

### A table of labels

```yaml
name: chest
title: Chest X-rays
modality: chest X-ray
classes: [normal, pneumonia]
layout:
  kind: csv            # commas, semicolons or tabs; UTF-8, UTF-16 or Windows-1252; .gz; .parquet with medpeft[parquet]
  file: labels.csv
  image: file                            # a name or a path, with or without extension
  label: finding
  labels: {"0": normal, "1": pneumonia, viral pneumonia: pneumonia}   # numbers in quotation marks
  ignore_labels: [unclear]               # these rows are left out, and counted
  group: patient
  split: partition
  split_names: {training: train, validation: val, testing: test}
  folders: [images]                      # searched in order, then below them by name
  extensions: [.png, .jpg]
  attributes: {age: age, sex: sex}       # further columns that the manifest keeps
split: {group: patient}
```

- `file: labels.csv` also finds `labels.csv.gz`, `labels.tsv`, `labels.tab` and `labels`, there or anywhere below the source.
- Leave out `split` and `split_names` for a stratified split, `group` where there is none.
- A label that is neither a class, nor in `labels`, nor in `ignore_labels` is an error with its line. An empty one is left out.
- Rows whose picture is absent and pictures that no row names are left out and listed. Several rows of one picture are one
  picture; if they disagree on the label or the split, it is left out.

### Several classes a picture

```yaml
name: findings
title: Chest X-rays with findings
modality: chest X-ray
task: multilabel
classes: [edema, effusion]
layout:
  kind: csv
  file: labels.csv
  image: file
  label_columns: [edema, effusion]       # 1, true = present; 0, false, empty, -1 (uncertain) = not; -1 is kept in a column uncertain
  group: patient
split: {group: patient}
```

- Instead of a column a class, one column such as `edema|effusion`: `label: findings`, and `separator` where it is not `|`.
- Rows of one picture are joined. The manifest writes the classes in the order of the card, joined by `|`; none is empty.
- With `task: classify`, exactly one of `label_columns` must be 1 (one-hot tables).

### Pictures and texts

```yaml
name: pairs
title: Chest X-rays with reports
modality: chest X-ray
task: text
layout:
  kind: csv
  file: reports.csv
  image: file
  text: report
  sections: [impression, findings]       # without it, the whole text
  group: patient
split: {group: patient}
```

Or a text file beside each picture, `p17_1.png` and `p17_1.txt`:

```yaml
name: captions
title: Pictures with captions
modality: chest X-ray
task: text
layout: {kind: text_files, group_pattern: '^(p\\d+)_'}   # `sections`, `marks` and `splits` as above
split: {group: patient}
```

### DICOM files

```yaml
name: scans
title: Scans
modality: CT
classes: [benign, malignant]
layout: {kind: class_folders, group_tag: PatientID}   # or a table, as above; names need no extension
split: {group: patient}
```

### A public dataset with another target

```yaml
base: fitzpatrick                        # one of ours, or a path; what is said here replaces what it says
name: cancer
classes: [benign or none, malignant]
layout:
  labels: {benign: benign or none, non-neoplastic: benign or none}
```

### One .npz of the MedMNIST kind

Arrays `train_images`, `train_labels`, and the same for `val` and `test` where there are any: uint8 (N, H, W) or (N, H, W, 3),
labels 0, 1, … in the order of `classes`.

```yaml
name: mnist_like
title: Arrays
modality: chest X-ray
classes: [normal, pneumonia]             # label 0, label 1
layout: {kind: npz, file: mnist_like.npz}
```

`--source` is the folder that holds the file, or the file itself.
"""
