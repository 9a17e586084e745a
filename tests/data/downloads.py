"""The public downloads, in small: the tests write them in their true file formats."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

REPORTS = {  # study → report, each in another style
    "50000001": "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___F with cough\n \n"
    " COMPARISON:  ___\n \n FINDINGS: \n \n The lungs are clear.\n No effusion at 10:31.\n \n IMPRESSION: \n \n"
    " No acute process.  Discussed with Dr. ___\n by phone at ___ on ___.\n \n NOTIFICATION:  done\n",
    "50000002": "FINAL REPORT\n CHEST, AP:\n\n FINDINGS:  Moderate cardiomegaly.\n\n RECOMMENDATION(S):  CT.\n",
    "50000003": " WET READ: ___ ___ 10:40 PM\n  IMPRESSION: Pneumothorax!\n" + "_" * 78 + "\n FINAL REPORT\n\n"
    " CONCLUSION:  Small effusion,\n unchanged.\n\n ADDENDUM  An error was found.\n IMPRESSION: Other.\n",
    "50000004": "FINAL REPORT\n PA AND LATERAL CHEST:\n\n Clear lungs, told without a heading.\n",
    "50000005": "FINAL REPORT\n\n IMPRESSION:  ___.\n",
}
STUDIES = {"10000001": ["50000001", "50000002"], "10000002": ["50000003"], "11000003": ["50000004", "50000005"]}
SPLITS = {"10000001": "train", "10000002": "validate", "11000003": "test"}
CHEXPERT = "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding," \
    "Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"  # fmt: skip


def write_dicom(path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", jpeg: bool = False, **tags) -> Path:
    """Write a real DICOM file; with jpeg as RSNA's, compressed as JPEG baseline."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    bits = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    dataset.PhotometricInterpretation = photometric
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    if jpeg:
        from io import BytesIO

        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        dataset.PixelData = encapsulate([buffer.getvalue()])
    else:
        dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 30), dtype=np.uint8)


def write_mimic(folder: Path, pictures: bool = True, zipped: bool = True) -> Path:
    """Write MIMIC-CXR-JPG 2.1.0 of three patients and five studies, each with an AP or PA and a lateral picture."""
    meta = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"]
    split = ["dicom_id,study_id,subject_id,split"]
    labels = [f"subject_id,study_id,{CHEXPERT}"]
    reports, seed = {}, 0
    for subject, studies in STUDIES.items():
        for study in studies:
            place = f"files/p{subject[:2]}/p{subject}"
            reports[f"{place}/s{study}.txt"] = REPORTS[study]
            labels.append(f"{subject},{study},,1.0,,-1.0,,,,,,0.0,,,,1.0")
            for view in ("PA" if seed % 4 else "AP", "LATERAL"):
                name = f"{seed:08x}-0000-1111-2222-{study}"
                meta.append(f'{name},{subject},{study},"CHEST (PA AND LAT)",{view},24,30')
                split.append(f"{name},{study},{subject},{SPLITS[subject]}")
                if pictures:
                    path = folder / place / f"s{study}" / f"{name}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(noise(seed)).save(path)
                seed += 1
    folder.mkdir(exist_ok=True)
    for name, rows in (("metadata", meta), ("split", split), ("chexpert", labels), ("negbio", labels)):
        with gzip.open(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt") as file:
            file.write("\n".join(rows) + "\n")
    if zipped:
        with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../../escaped.txt", "a name that leads out of the archive")
            for name, text in reports.items():
                archive.writestr(name, text)
    else:
        for name, text in reports.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder
