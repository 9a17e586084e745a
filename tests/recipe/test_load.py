"""Files, bases, --set and --demo become one recipe; everything wrong is said at once, with its place."""

import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.load import dump_recipe, leaves, load_recipe


def lines_of(path, overrides=(), **options):
    """Return the lines of the complaint about a recipe."""
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides, **options)
    assert error.value.exit_code == 2
    return error.value.message.splitlines()


def test_maps_merge_and_lists_and_values_replace(write):
    recipe = load_recipe(write("base: base.yaml\ntrain: {epochs: 2, betas: [0.5, 0.6]}\n")).recipe
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.betas) == (2, 0.001, (0.5, 0.6))


def test_a_base_is_looked_up_beside_the_file_that_names_it(write):
    write("base: ../base.yaml\nseed: 3\n", "sub/middle.yaml")
    recipe = load_recipe(write("base: sub/middle.yaml\n")).recipe
    assert recipe.seed == 3
    assert recipe.data.card == "isic"


def test_every_field_is_explicit_and_defaults_are_filled_in(write):
    recipe = load_recipe(write("base: base.yaml\n")).recipe
    assert str(recipe.data.root) == "data/isic"
    assert recipe.method.parameters["rank"] == 4
    assert "alpha" in recipe.method.parameters


def test_the_parameters_of_another_method_are_dropped(write):
    path = write("base: base.yaml\nmethod: {name: adaptformer, bottleneck: 7}\n")
    assert load_recipe(path).recipe.method.parameters["bottleneck"] == 7
    assert load_recipe(path, ["method.name=ssf"]).recipe.method.parameters == {"init_std": 0.0}


def test_the_parameters_of_the_same_method_merge(write):
    path = write("base: base.yaml\nmethod: {name: lora, alpha: 2}\n")
    parameters = load_recipe(path, ["method.alpha=3"]).recipe.method.parameters
    assert (parameters["rank"], parameters["alpha"]) == (4, 3)


@pytest.mark.parametrize("order", [1, -1])
def test_set_may_name_a_method_and_its_parameters_in_any_order(write, order):
    overrides = ["method.name=adaptformer", "method.bottleneck=3"][::order]
    assert load_recipe(write("base: base.yaml\n"), overrides).recipe.method.parameters["bottleneck"] == 3


def test_a_card_that_is_neither_name_nor_file_is_named_with_the_nearest(write):
    with pytest.raises(RecipeError, match="r.yaml:1:.*data.card: got 'isci', did you mean 'isic'"):
        load_recipe(write("data: {card: isci}\ntask: classify\nbackbone: {name: resnet50}\nmethod: {name: ssf}\n"))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=1e-2", 0.01),
        ("train.betas=[0.1, 0.2]", (0.1, 0.2)),
        ("train.clip_norm=null", None),
        ("train.gradient_checkpointing=true", True),
        ("backbone.weights=no", "no"),
        ("backbone.name=hf-hub:timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k"),
        ("backbone.name=a=b", "a=b"),
    ],
)
def test_set_reads_values_as_a_recipe_does(write, override, value):
    recipe = load_recipe(write("base: base.yaml\n"), [override]).recipe
    got = recipe
    for name in override.partition("=")[0].split("."):
        got = getattr(got, name)
    assert got == value


def test_the_later_of_two_sets_wins(write):
    assert load_recipe(write("base: base.yaml\n"), ["seed=1", "seed=2"]).recipe.seed == 2


def test_origins_name_file_and_line_or_set_or_default(write):
    origins = load_recipe(write("base: base.yaml\n\nseed: 3\nmethod: {alpha: 2}\n"), ["train.lr=0.1"]).origins
    assert origins["seed"] == "r.yaml:3"
    assert origins["method.alpha"] == "r.yaml:4"
    assert origins["method.rank"] == "base.yaml:4"
    assert origins["train.betas"] == "base.yaml:5"
    assert origins["train.lr"] == "--set"
    assert origins["train.epochs"] == origins["data.root"] == "default"


def test_origins_cover_every_leaf(write):
    loaded = load_recipe(write("base: base.yaml\n"))
    assert set(loaded.origins) == {".".join(key) for key, _ in leaves(loaded.recipe.model_dump(mode="json"))}


def test_every_problem_is_reported_at_once_with_its_place(write):
    path = write("""\
base: base.yaml
data: {fraction: 2, crad: isic}
method:
  rnak: 8
train:
  lr: "1e-3"
  epochs: 1.5
  schedule: cosin
  betas: [0.9, x]
  gradient_checkpointing: yes
  lr: 2
backbone: {input: {mean: [0, 0]}}
augment: {crop_scale: [0.9, 0.1]}
evaluate: 5
workers: many
""")
    lines = lines_of(path, ["seed=-1", "train.epoch=3", "nonsense", "data.card=[1"])
    expected = [
        "--set data.card: not YAML",
        "--set nonsense: wanted FIELD=VALUE",
        "--set seed: got -1, wanted a whole number ≥ 0",
        "--set train.epoch: no such field, got 'epoch', did you mean 'epochs'?",
        "r.yaml:2:18: data.fraction: got 2, wanted a number > 0 and ≤ 1",
        "r.yaml:2:21: data.crad: no such field, got 'crad', did you mean 'card'? wanted one of card, root, fraction, k_shot",
        "r.yaml:4:3: method.rnak: no such field, got 'rnak', did you mean 'rank'?",
        "r.yaml:6:7: train.lr: got '1e-3', wanted a number > 0",
        "r.yaml:7:11: train.epochs: got 1.5, wanted a whole number ≥ 1",
        "r.yaml:8:13: train.schedule: got 'cosin', wanted one of cosine, constant",
        "r.yaml:9:16: train.betas.1: got 'x', wanted 2 numbers",
        "r.yaml:10:27: train.gradient_checkpointing: got 'yes', wanted true or false",
        "r.yaml:11:3: train.lr: written twice, first at r.yaml:6:3",
        "r.yaml:12:26: backbone.input.mean: got [0, 0], wanted 3 numbers ≥ 0 and ≤ 1 or null",
        "r.yaml:13:10: augment: crop_scale must be two fractions",
        "r.yaml:14:11: evaluate: got 5, wanted a map",
        "r.yaml:15:10: workers: got 'many', wanted a whole number ≥ 0 or auto",
    ]
    assert len(lines) == len(expected), lines
    for line, start in zip(sorted(lines), sorted(expected), strict=True):
        assert line.startswith(start)


def test_a_wrong_value_is_found_in_the_base_that_holds_it(write):
    write("base: base.yaml\ntrain: {epochs: 0}\n", "middle.yaml")
    assert lines_of(write("base: middle.yaml\n")) == [
        "middle.yaml:2:17: train.epochs: got 0, wanted a whole number ≥ 1"
    ]


def test_what_is_missing_is_missing_in_the_uppermost_file(write):
    lines = lines_of(write("task: classify\nbackbone: {weights: random}\nmethod: {name: ssf}\n"))
    assert lines[0] == "r.yaml:1:1: data: got nothing, wanted a map"
    assert lines[1].startswith("r.yaml:2:1: backbone.name: got nothing, wanted text: timm name")


@pytest.mark.parametrize(
    ("method", "start"),
    [
        ("{name: lroa}", "r.yaml:2:16: method.name: unknown PEFT method, got 'lroa', did you mean 'lora'? known: "),
        ("{name: 5}", "r.yaml:2:16: method.name: got 5, wanted text"),
        ("{rank: 0}", "r.yaml:2:16: method.rank: got 0, wanted a whole number ≥ 1"),
        ("lora", "r.yaml:2:9: method: got 'lora', wanted a map"),
        ("{name: null}", "r.yaml:2:16: method.name: got null, wanted text"),
        ("null", "r.yaml:2:9: method: got null, wanted a map"),
    ],
)
def test_a_wrong_method_is_named(write, method, start):
    (line,) = lines_of(write(f"base: base.yaml\nmethod: {method}\n"))
    assert line.startswith(start)


def test_numbers_must_be_finite(write):
    (line,) = lines_of(write("base: base.yaml\ntrain: {lr: .inf}\n"))
    assert line.startswith("r.yaml:2:13: train.lr: got Infinity")
    assert lines_of(write("base: base.yaml\ntrain: {lr: .nan}\n"))


def test_fraction_and_k_shot_exclude_each_other(write):
    (line,) = lines_of(write("base: base.yaml\ndata: {fraction: 0.5, k_shot: 5}\n"))
    assert line == "r.yaml:2:7: data: give fraction or k_shot, not both"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.betas=[1]", "train.betas: got [1], wanted 2 numbers ≥ 0 and < 1"),
        ("device=gpu", "device: got 'gpu', wanted text: auto, cpu, cuda, cuda:1 or mps"),
        (
            "backbone.options={img_size: 96}",
            "backbone.options: img_size: set backbone.input.size",
        ),
        (
            "backbone.options={pretrained: true, num_classes: 5}",
            "backbone.options: num_classes: the dataset says how many classes there are; pretrained: set backbone.weights",
        ),
    ],
)
def test_one_wrong_value_is_one_line_that_says_what_is_wanted(write, override, line):
    assert lines_of(write("base: base.yaml\n"), [override]) == [f"--set {line}"]


def test_classes_are_evened_out_once(write):
    (line,) = lines_of(write("base: base.yaml\n"), ["train.class_weights=balanced", "train.sampling=balanced"])
    assert "train: give class_weights: balanced or sampling: balanced, not both" in line


def test_the_vectors_of_vblora_that_are_mixed_come_from_its_bank(write):
    (line,) = lines_of(write("base: base.yaml\nmethod: {name: vblora, vectors: 2, chosen: 3}\n"))
    assert line == "r.yaml:2:9: method: chosen: 3, wanted at most vectors 2"


def test_bases_that_go_in_circles_are_refused(write):
    write("base: r.yaml\n", "other.yaml")
    assert lines_of(write("base: other.yaml\n")) == [
        "other.yaml:1:7: base: goes round in a circle, r.yaml → other.yaml → r.yaml"
    ]
    assert "circle" in lines_of(write("base: r.yaml\n"))[0]


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        ("bsae.yaml", "r.yaml:1:7: base: no such file, got 'bsae.yaml'", "did you mean 'base.yaml'?"),
        ("nowhere/x.yaml", "r.yaml:1:7: base: no such file, got 'nowhere/x.yaml'", "`medpeft list recipes`"),
        ("[base.yaml]", 'r.yaml:1:7: base: got ["base.yaml"], wanted a file name', "relative"),
        ("null", "r.yaml:1:7: base: got null, wanted a file name", "relative"),
    ],
)
def test_a_base_that_is_not_there_is_named(write, base, message, hint):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(f"base: {base}\n"))
    assert error.value.message == message
    assert hint in error.value.hint


def test_a_recipe_that_is_not_there_gets_the_nearest(write):
    path = write("base: base.yaml\n", "isic_ssf.yaml")
    with pytest.raises(RecipeError, match="isic_sff.yaml: no such file") as error:
        load_recipe(path.with_name("isic_sff.yaml"))
    assert error.value.hint == "did you mean 'isic_ssf.yaml'?"


def test_odd_characters_cannot_break_the_line_of_a_complaint(write):
    (line,) = lines_of(write('base: base.yaml\n"a\\nb\\e[31m": 1\n'))
    assert "\x1b" not in line
    assert line.startswith("r.yaml:2:1: a\\nb\\x1b[31m: no such field")


def test_a_dumped_recipe_loads_to_the_same_recipe(write):
    loaded = load_recipe(
        write("base: base.yaml\nbackbone: {options: {pad_type: same, act: 'no'}, weights: '1e-3'}\n"),
        ["train.lr=1e-5", "data.root=a b/ü", "augment.crop_scale=null", "method.name=ssf"],
    )
    again = load_recipe(write(dump_recipe(loaded.recipe), "again.yaml"))
    assert again.recipe == loaded.recipe
    assert "default" not in again.origins.values()


def test_the_demo_replaces_backbone_and_data_and_set_still_wins(write):
    path = write("base: base.yaml\nbackbone: {weights: here.safetensors, options: {pad_type: same}}\n")
    plain, demo = load_recipe(path).recipe, load_recipe(path, ["train.epochs=3"], demo=True)
    recipe, origins = demo.recipe, demo.origins
    assert recipe.demo
    assert recipe.backbone.name == "demo_vit"
    assert recipe.backbone.weights == "pretrained"
    assert recipe.backbone.options == {}
    assert str(recipe.data.root) == "data/demo/isic"
    assert recipe.method.name == plain.method.name
    assert recipe.train.epochs == 3
    assert (origins["backbone.name"], origins["train.epochs"], origins["method.name"]) == (
        "demo",
        "--set",
        "base.yaml:4",
    )


def test_the_demo_keeps_the_family_that_set_names(write):
    path = write("base: base.yaml\n")
    assert load_recipe(path, ["backbone.name=resnet50.a1_in1k"], demo=True).recipe.backbone.name == "demo_resnet"
    assert load_recipe(path, ["backbone.name=demo_resnet"], demo=True).recipe.backbone.name == "demo_resnet"
    assert load_recipe(path, ["backbone.weights=random"], demo=True).recipe.backbone.weights == "random"


def test_a_wrong_recipe_is_wrong_in_the_demo_too(write):
    (line,) = lines_of(write("base: base.yaml\nbackbone: 5\n"), demo=True)
    assert line == "r.yaml:2:11: backbone: got 5, wanted a map"


def test_a_task_that_is_not_there_is_named_with_the_nearest(write):
    (line,) = lines_of(write("base: base.yaml\ntask: genrate\n"))
    assert line == "r.yaml:2:7: task: got 'genrate', did you mean 'generate'? wanted one of classify, generate"
    assert lines_of(write("data: {card: isic}\nmethod: {name: ssf}\n")) == [
        "r.yaml:1:1: task: got nothing, wanted classify or generate"
    ]


@pytest.mark.parametrize(
    ("task", "model", "method"), [("generate", "pipeline", "tsa"), ("classify", "backbone", "svdiff")]
)
def test_a_method_of_the_other_task_is_refused_before_anything_is_loaded(write, task, model, method):
    path = write(f"task: {task}\ndata: {{card: isic}}\n{model}: {{name: x}}\nmethod: {{name: {method}}}\n")
    (line,) = lines_of(path)
    assert f"'{method}' is not for task {task}" in line
