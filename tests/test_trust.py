"""A folder from somebody else: it is read, none of its code is run, and what it claims is checked before that."""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from little_memory import FILE as LITTLE_MEMORY
from little_memory import little_memory

import pg_experiments
from pg_experiments import UserError, compose, load_policy, train
from pg_experiments.checkpoint_check import check_checkpoint
from pg_experiments.config import SCHEMAS
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.files import write_atomically
from pg_experiments.report import main as report_main
from pg_experiments.saved_config import SAVED, load_config
from pg_experiments.seal import COMMENT, with_seal
from pg_experiments.summary import print_summary
from pg_experiments.trust import check_trust, imports_from_elsewhere, modules_to_trust

TYPE_CHECKS = False  # see conftest.py

TINY = ("env.num_envs=2", "total_env_steps=1", "evaluation.episodes=2", "logging.progress=none")
SMALL = (*TINY, "logging.tensorboard=false", "policy.hidden_sizes=[5]", "baseline.hidden_sizes=[5]")
LAST = Path("checkpoints") / "last.pt"
TEN_GIGABYTES = 10_000_000_000
MOST_SECONDS, MOST_BYTES = 5.0, 300e6  # of computing, and of memory: what refusing a folder may take
MODULE = """
from pathlib import Path

(Path(__file__).parent / "executed").touch()


class Thing:
    def __init__(self, **given):
        (Path(__file__).parent / "executed").touch()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny finished runs, by environment."""
    root = tmp_path_factory.mktemp("runs")
    acrobot = ("policy=softmax", "env=gymnasium", "env.id=Acrobot-v1", "env.max_episode_steps=3")
    train([compose(*SMALL, "env.max_episode_steps=3")], [root / "pendulum"])
    train([compose(*SMALL, *acrobot)], [root / "gymnasium"])
    return {"pendulum": root / "pendulum", "gymnasium": root / "gymnasium"}


class Theirs:
    """A copy of a finished run, with modules that leave a file behind when they are imported, beside it and in it.

    The working folder is on the path of modules, as with `python -m`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder.parent / "secret"
        self.secret.mkdir()
        for place in (folder, folder.parent):
            (place / "evil_module.py").write_text(MODULE)

    def executed(self) -> list[Path]:
        return [path for path in self.folder.parent.rglob("*") if path.name == "executed"]

    def config(self) -> dict:
        return yaml.safe_load((self.folder / SAVED).read_text())

    def set(self, key: str, value: object) -> None:
        """A value of the saved config by its dotted key."""
        config = self.config()
        *names, last = key.split(".")
        part = config
        for name in names:
            part = part[name]
        part[last] = value
        (self.folder / SAVED).write_text(yaml.safe_dump(config))


@pytest.fixture
def make(trained, tmp_path, monkeypatch) -> Callable[..., Theirs]:
    def copy(env: str = "pendulum") -> Theirs:
        theirs = Theirs(shutil.copytree(trained[env], tmp_path / "theirs" / "run"))
        monkeypatch.chdir(theirs.folder)
        monkeypatch.syspath_prepend(theirs.folder)
        return theirs

    return copy


class Ended:
    """How an entry point ended: its exit code (of `load_policy` 2 for a `UserError`), and its message."""

    def __init__(self, code: int, err: str) -> None:
        self.code, self.err = code, err


def _command(main: Callable[..., None], *arguments: str) -> Callable[..., Ended]:
    def call(folder: Path, capfd, *more: str) -> Ended:
        code = 0
        capfd.readouterr()
        try:
            main([str(folder), *arguments, *more])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ended(code, capfd.readouterr().err)

    return call


def _load_policy(folder: Path, capfd, *more: str) -> Ended:
    try:
        load_policy(folder, trust=more[1::2])
    except UserError as error:
        return Ended(2, f"error: {error}\n")
    return Ended(0, "")


ENTRIES = {"evaluate": _command(evaluate_main, "--episodes", "2"), "load_policy": _load_policy}
READERS = {**ENTRIES, "report": _command(report_main)}
every_entry = pytest.mark.parametrize("entry", list(READERS))


def refused(entry: str, theirs: Theirs, capfd, *says: str) -> None:
    """The entry point refuses the folder in one line, soon, with little memory, and without running any of it.

    `report` reads neither classes nor checkpoints, so it may also be content.
    """
    begin, modules = time.process_time(), set(sys.modules)
    with little_memory(MOST_BYTES):
        ended = READERS[entry](theirs.folder, capfd)
    assert theirs.executed() == []
    assert "evil_module" not in set(sys.modules) - modules
    assert time.process_time() - begin < MOST_SECONDS
    assert ended.code == 2, ended.err
    assert re.fullmatch(r"error: [^\n]+\n", ended.err), ended.err
    assert ended.err.isprintable() or ended.err[:-1].isprintable()
    for part in says:
        assert part in ended.err


def not_read(theirs: Theirs, capfd, monkeypatch) -> None:
    """The report needs nothing of what is wrong: it succeeds at once, and runs nothing. The picture takes a second."""
    monkeypatch.setattr("pg_experiments.reports.picture.write_picture", lambda comparison, path: None)
    begin = time.process_time()
    with little_memory(MOST_BYTES):
        ended = READERS["report"](theirs.folder, capfd)
    assert (ended.code, ended.err) == (0, "")
    assert theirs.executed() == []
    assert "evil_module" not in sys.modules
    assert time.process_time() - begin < MOST_SECONDS


def test_an_honest_folder_is_read_by_every_entry_point(make, capfd):
    theirs = make()
    for entry, call in READERS.items():
        ended = call(theirs.folder, capfd)
        assert (ended.code, ended.err) == (0, ""), entry
    assert theirs.executed() == []


# --- checkpoints ------------------------------------------------------------------------------------------------------


class Trap:
    """What a pickle makes of this is a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def seal(path: Path) -> None:
    """Give an archive its right checksum: whoever is malicious can do that as well."""
    path.write_bytes(with_seal(path.read_bytes()))


def a_pickle_that_runs_code(theirs: Theirs) -> tuple[str, ...]:
    (theirs.folder / LAST).write_bytes(pickle.dumps({"policy": Trap(theirs.folder / "executed"), "x": b" " * 4000}))
    return "cannot be read", "no archive of tensors"


def a_pickle_in_an_archive(theirs: Theirs) -> tuple[str, ...]:
    trap = {"policy": Trap(theirs.folder / "executed"), "filling": torch.zeros(1000)}
    torch.save(trap, theirs.folder / LAST)
    seal(theirs.folder / LAST)
    return "cannot be read", "posix.mkdir", "is not run"


def an_old_pickle_of_torch(theirs: Theirs) -> tuple[str, ...]:
    trap = {"policy": Trap(theirs.folder / "executed"), "filling": torch.zeros(1000)}
    torch.save(trap, theirs.folder / LAST, _use_new_zipfile_serialization=False)
    return "cannot be read", "no archive of tensors"


def ten_gigabytes_of_nothing(theirs: Theirs) -> tuple[str, ...]:
    os.truncate(theirs.folder / LAST, TEN_GIGABYTES)
    return "it has 10.0 GB", "at most 1."


def a_directory_that_claims_ten_gigabytes(theirs: Theirs) -> tuple[str, ...]:
    data = bytearray((theirs.folder / LAST).read_bytes())
    entry = data.index(b"PK\x01\x02")  # of the first record, in the table of contents
    struct.pack_into("<I", data, entry + 24, 4_000_000_000)
    second = data.index(b"PK\x01\x02", entry + 4)
    third = data.index(b"PK\x01\x02", second + 4)
    for place in (second, third):
        struct.pack_into("<I", data, place + 24, 3_000_000_000)
    (theirs.folder / LAST).write_bytes(data)
    return "records claim 10.0 GB", "at most 1."


def _rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))
    seal(path)


def a_compressed_record(theirs: Theirs) -> tuple[str, ...]:
    def inflate(name: str, content: bytes) -> bytes:
        return bytes(900_000) if name.endswith("data/0") else content

    _rewrite(theirs.folder / LAST, inflate, zipfile.ZIP_DEFLATED)
    return ("compressed",)


def a_tensor_that_claims_ten_gigabytes(theirs: Theirs) -> tuple[str, ...]:
    def claim(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        count = content.index(b"X\x03\x00\x00\x00cpu") + 8
        while content[count : count + 1] in (b"q", b"r"):  # where it is remembered
            count += 2 if content[count : count + 1] == b"q" else 5
        assert content[count : count + 1] == b"K"
        return content[:count] + b"\x8a\x05" + (2_500_000_000).to_bytes(5, "little") + content[count + 2 :]

    _rewrite(theirs.folder / LAST, claim)
    return ("a tensor of it claims 10.0 GB",)


def two_tables_of_contents(theirs: Theirs) -> tuple[str, ...]:
    """Python's reader takes the table right before the end, torch's the one at the place that the end names."""
    data = (theirs.folder / LAST).read_bytes()
    end = len(data) - COMMENT - 22
    start = struct.unpack_from("<L", data, end + 16)[0]
    (theirs.folder / LAST).write_bytes(data[:end] + data[start:end] + data[end:])
    return ("its table of contents is not where its end says",)


def a_record_in_small_and_in_capital_letters(theirs: Theirs) -> tuple[str, ...]:
    with zipfile.ZipFile(theirs.folder / LAST, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        archive.writestr(name.replace("data/0", "DATA/0"), b"few")
    return ("the same name",)


def networks_of_ten_gigabytes(theirs: Theirs) -> tuple[str, ...]:
    theirs.set("policy.hidden_sizes", [50_000, 50_000])
    return "cannot be read", "at least 10.0 GB"


def a_link_to_a_checkpoint_elsewhere(theirs: Theirs) -> tuple[str, ...]:
    shutil.move(theirs.folder / LAST, theirs.secret / "last.pt")
    (theirs.folder / LAST).symlink_to(theirs.secret / "last.pt")
    return "checkpoints/last.pt", "leads out of"


def a_linked_folder_of_checkpoints(theirs: Theirs) -> tuple[str, ...]:
    shutil.move(theirs.folder / "checkpoints", theirs.secret / "checkpoints")
    (theirs.folder / "checkpoints").symlink_to("../secret/checkpoints")
    return "checkpoints/last.pt", "leads out of"


CHECKPOINTS = [
    a_pickle_that_runs_code,
    a_pickle_in_an_archive,
    an_old_pickle_of_torch,
    ten_gigabytes_of_nothing,
    a_directory_that_claims_ten_gigabytes,
    a_compressed_record,
    a_tensor_that_claims_ten_gigabytes,
    two_tables_of_contents,
    a_record_in_small_and_in_capital_letters,
    networks_of_ten_gigabytes,
    a_link_to_a_checkpoint_elsewhere,
    a_linked_folder_of_checkpoints,
]


@every_entry
@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_before_it_is_loaded(make, capfd, monkeypatch, entry, damage):
    theirs = make()
    says = damage(theirs)

    def never(*arguments, **named):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", never)
    if entry == "report":
        not_read(theirs, capfd, monkeypatch)
    else:
        refused(entry, theirs, capfd, str(theirs.folder), *says)


def test_torch_itself_is_told_to_read_tensors_only(make, capfd, monkeypatch):
    """Should the check before it miss something, `weights_only` is there still."""
    theirs = make()
    a_pickle_in_an_archive(theirs)
    monkeypatch.setattr("pg_experiments.checkpoint.check_checkpoint", lambda *arguments: None)
    refused("load_policy", theirs, capfd, "cannot be read", "UnpicklingError")


@pytest.mark.parametrize("entry", list(ENTRIES))
def test_a_tensor_that_the_policy_does_not_have_is_refused(make, capfd, entry):
    theirs = make()
    state = torch.load(theirs.folder / LAST, weights_only=True)
    state["policy"]["parameters"]["more"] = torch.zeros(1).expand(1, 2_500_000_000)  # four bytes, and ten gigabytes
    torch.save(state, theirs.folder / LAST)
    seal(theirs.folder / LAST)
    refused(entry, theirs, capfd, "does not fit the config", "no more")


def test_a_checkpoint_may_be_a_link_within_its_folder(make, capfd):
    theirs = make()
    os.rename(theirs.folder / LAST, theirs.folder / "checkpoints" / "first.pt")
    (theirs.folder / LAST).symlink_to("first.pt")
    assert ENTRIES["evaluate"](theirs.folder, capfd).code == 0


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(make, capfd):
    theirs = make()
    for name in (LAST, Path("result.json"), Path("metrics.csv")):
        (theirs.folder / name).unlink()
        os.mkfifo(theirs.folder / name)
    assert ENTRIES["evaluate"](theirs.folder, capfd).code == 2
    ended = READERS["report"](theirs.folder, capfd)
    assert ended.code == 0
    assert ended.err.count("is no regular file") == 2


# --- classes ----------------------------------------------------------------------------------------------------------

TARGETS = [
    ("env", "os.system", "--trust os"),
    ("policy", "builtins.eval", "--trust builtins"),
    ("baseline", "evil_module.Thing", "--trust evil_module"),
    ("algorithm", "evil_module.Thing", "--trust evil_module"),
    ("optimizer", "evil_module.Thing", "--trust evil_module"),
    ("baseline.optimizer", "subprocess.Popen", "--trust subprocess"),
    ("optimizer", "torch.hub.load", "--trust torch"),
    ("optimizer", "torch.optim", "--trust torch"),
    ("env", "pg_experiments.policies.softmax.Softmax", "--trust pg_experiments"),
    ("policy", "pg_experiments.sweeps.worker.train_batch", "--trust pg_experiments"),
    ("policy", "pg_experiments.policies.softmax.os.system", "--trust pg_experiments"),
    ("policy", "..softmax.Softmax", "package.module.Name"),
    ("policy", "x; touch executed.Thing", "package.module.Name"),
    ("policy", "\x1b[31mred.Thing", "package.module.Name"),
]


@every_entry
@pytest.mark.parametrize(("key", "target", "option"), TARGETS)
def test_a_class_that_is_not_ours_is_refused_with_the_option_that_would_allow_it(
    make, capfd, monkeypatch, entry, key, target, option
):
    theirs = make()
    theirs.set(f"{key}._target_", target)
    if entry == "report":
        not_read(theirs, capfd, monkeypatch)
    else:
        refused(entry, theirs, capfd, f"{key}._target_=", target.lstrip("\x1b"), option)


@every_entry
def test_an_id_that_makes_gymnasium_import_a_module_is_refused(make, capfd, monkeypatch, entry):
    theirs = make("gymnasium")
    theirs.set("env.id", "evil_module:Acrobot-v1")
    if entry == "report":
        not_read(theirs, capfd, monkeypatch)
    else:
        refused(entry, theirs, capfd, "env.id=evil_module:Acrobot-v1", "imports the module", "--trust evil_module")


@every_entry
@pytest.mark.parametrize(
    "value", ["../../secret/model.xml", "/etc/passwd", "~/model.xml", "evil_module:Env-v0", "a.xml"]
)
def test_a_path_for_an_environment_is_refused(make, capfd, monkeypatch, entry, value):
    theirs = make("gymnasium")
    theirs.set("env.kwargs", {"nested": [{"xml_file": value}]})
    if entry == "report":
        not_read(theirs, capfd, monkeypatch)
    else:
        refused(entry, theirs, capfd, f"env.kwargs.nested.xml_file={value}", "--trust gymnasium")


@pytest.mark.parametrize("entry", list(ENTRIES))
@pytest.mark.parametrize("name", ["own_parts", "own_parts.deeper"])
def test_a_trusted_package_and_what_is_in_it_may_be_named(make, capfd, monkeypatch, entry, name):
    theirs = make()
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    monkeypatch.delitem(sys.modules, "own_parts.deeper", raising=False)
    package = theirs.folder.parent / "own_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deeper.py").write_text("from pg_experiments.baselines.none import NoBaseline as Own\n")
    monkeypatch.chdir(theirs.folder.parent)
    monkeypatch.syspath_prepend(theirs.folder.parent)
    theirs.set("baseline", {"_target_": "own_parts.deeper.Own"})
    (ended, other) = (ENTRIES[entry](theirs.folder, capfd, "--trust", trusted) for trusted in (name, "own"))
    assert (ended.code, ended.err) == (0, "")
    assert other.code == 2
    assert "--trust own_parts" in other.err
    assert modules_to_trust(theirs.config()) == ["own_parts"]


def test_trust_may_be_one_name_and_has_to_be_a_name(make):
    theirs = make()
    assert load_policy(theirs.folder, trust="own_parts")
    for wrong in ("", "a b", "../own", "own.", "*"):
        with pytest.raises(UserError, match=r"^--trust=.*must be the name of a package"):
            load_policy(theirs.folder, trust=(wrong,))


def test_every_class_of_ours_and_of_torch_needs_no_trust():
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            check_trust({group: {"_target_": schema._target_}})
    for target in ("torch.optim.Adagrad", "torch.optim.adam.Adam"):
        check_trust({"optimizer": {"_target_": target}})


def test_a_module_in_the_working_folder_hides_no_installed_one(make, monkeypatch):
    theirs = make()
    installed = list(sys.path)[1:]
    with imports_from_elsewhere():
        assert sys.path == installed
    with imports_from_elsewhere(["own_parts"]):
        assert sys.path == [*installed, str(theirs.folder)]
    assert sys.path == [str(theirs.folder), *installed]


# --- configs ----------------------------------------------------------------------------------------------------------


def a_tag_that_calls(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write(f"more: !!python/object/apply:pathlib.Path.touch [{theirs.folder / 'executed'}]\n")
    return "tag:yaml.org,2002:python/object/apply", "plain values only"


def a_tag_that_makes_a_path(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write("more: !!python/object/apply:pathlib.PosixPath [a, b]\n")
    return ("plain values only",)


def billions_of_laughs(theirs: Theirs) -> tuple[str, ...]:
    lines = ["more:", "  a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with (theirs.folder / SAVED).open("a") as file:
        file.write("\n".join(lines) + "\n")
    return ("anchor or alias",)


def a_merge_of_anchors(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write("more: &more {a: 1}\nother:\n  <<: *more\n")
    return ("anchor or alias",)


def a_config_of_two_megabytes(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write("# filling\n" * 200_000)
    return ("has 2.0 MB", "more than the 100.0 kB")


def a_config_of_ten_gigabytes(theirs: Theirs) -> tuple[str, ...]:
    os.truncate(theirs.folder / SAVED, TEN_GIGABYTES)
    return ("has 10.0 GB",)


def a_deep_config(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write(f"more: {'[' * 40_000}{']' * 40_000}\n")
    return ("nested deeper than 20",)


def a_long_number(theirs: Theirs) -> tuple[str, ...]:
    with (theirs.folder / SAVED).open("a") as file:
        file.write(f"more: {'9' * 50_000}\n")
    return (str(SAVED),)


def an_interpolation(text: str) -> Callable[[Theirs], tuple[str, ...]]:
    def damage(theirs: Theirs) -> tuple[str, ...]:
        theirs.set("optimizer.schedule", text)
        return "optimizer.schedule=", "a saved config holds values"

    damage.__name__ = text
    return damage


def a_chain_of_references(theirs: Theirs) -> tuple[str, ...]:
    theirs.set("seed", "${total_env_steps}")
    theirs.set("total_env_steps", "${seed}")
    return "seed=${total_env_steps}", "no plain value"


def a_linked_config(theirs: Theirs) -> tuple[str, ...]:
    shutil.move(theirs.folder / SAVED, theirs.secret / "config.yaml")
    (theirs.folder / SAVED).symlink_to("../../secret/config.yaml")
    return ".hydra/config.yaml", "leads out of"


CONFIGS = [
    a_tag_that_calls,
    a_tag_that_makes_a_path,
    billions_of_laughs,
    a_merge_of_anchors,
    a_config_of_two_megabytes,
    a_config_of_ten_gigabytes,
    a_deep_config,
    a_long_number,
    an_interpolation("${oc.env:SECRET}"),
    an_interpolation("${oc.env:SECRET,linear}"),
    an_interpolation("${oc.decode:${oc.env:SECRET}}"),
    an_interpolation("${first_given:linear}"),
    an_interpolation("${hydra:runtime.cwd}"),
    an_interpolation("${seed}${seed}"),
    an_interpolation("${${seed}}"),
    an_interpolation("${optimizer[schedule]}"),
    a_chain_of_references,
    a_linked_config,
]


@every_entry
@pytest.mark.parametrize("damage", CONFIGS)
def test_a_config_that_is_more_than_plain_values_is_refused(make, capfd, monkeypatch, entry, damage):
    monkeypatch.setenv("SECRET", "the word")
    theirs = make()
    says = damage(theirs)
    refused(entry, theirs, capfd, *says)


def test_what_was_read_from_the_environment_is_saved_as_its_value(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEED", "7")
    saved = tmp_path / SAVED
    saved.parent.mkdir()
    config = compose(*SMALL, "seed=${oc.env:SEED}", "env.max_episode_steps=3")
    saved.write_text("seed: ${oc.env:SEED}\n")  # as Hydra leaves it
    (result,) = train([config], [tmp_path])
    print_summary(result, ["own_parts", "other_parts"])
    assert " --episodes 100 --trust own_parts --trust other_parts\n" in capsys.readouterr().out
    assert "${" not in saved.read_text()
    assert load_config(tmp_path) == config


# --- memory, in a process that has little -----------------------------------------------------------------------------

CLAIMS = {
    **dict.fromkeys((ten_gigabytes_of_nothing, a_directory_that_claims_ten_gigabytes), ENTRIES),
    **dict.fromkeys((a_tensor_that_claims_ten_gigabytes, networks_of_ten_gigabytes), ENTRIES),
    **dict.fromkeys((billions_of_laughs, a_config_of_ten_gigabytes), READERS),
}


def test_what_claims_gigabytes_is_refused_by_a_process_that_cannot_have_them(make, tmp_path):
    """With the same message as ever: a `MemoryError` on the way could be told in one line as well."""
    theirs, reads, expected = make(), [], []
    for damage, entries in CLAIMS.items():
        copy = Theirs(shutil.copytree(theirs.folder, tmp_path / damage.__name__ / "run"))
        says = damage(copy)
        for entry in entries:
            reads += [entry, str(copy.folder)]
            expected.append((damage.__name__, entry, says))
    process = subprocess.run(
        [sys.executable, LITTLE_MEMORY, str(MOST_BYTES), *reads],
        env={**os.environ, "PYTHONPATH": str(Path(pg_experiments.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    ends = zip(expected, json.loads(process.stdout), strict=True)
    wrong = [
        (*read, code, err) for (*read, says), (code, err) in ends if code != 2 or not all(one in err for one in says)
    ]
    assert wrong == []


# --- files of a sweep -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["result.json", "metrics.csv"])
@pytest.mark.parametrize("how", ["link", "huge"])
def test_the_report_leaves_out_a_file_that_leads_out_or_is_huge(make, capfd, name, how):
    theirs = make()
    path = theirs.folder / name
    if how == "link":
        shutil.move(path, theirs.secret / name)
        path.symlink_to(theirs.secret / name)
    else:
        os.truncate(path, TEN_GIGABYTES)
    with little_memory(MOST_BYTES):
        ended = READERS["report"](theirs.folder, capfd)
    assert ended.code == 0
    assert re.fullmatch(r"warning: [^\n]+\n", ended.err)
    assert ("leads out of" if how == "link" else "has 10.0 GB") in ended.err


def test_a_line_without_an_end_is_not_taken_into_memory(make, capfd):
    theirs = make()
    os.truncate(theirs.folder / "metrics.csv", 900_000_000)
    with little_memory(MOST_BYTES):
        ended = READERS["report"](theirs.folder, capfd)
    assert "characters or more" in ended.err


def test_the_report_does_not_follow_a_link_to_other_runs(make, capfd, trained):
    theirs = make()
    (theirs.folder / "more").symlink_to(trained["gymnasium"])
    (theirs.folder / "again").mkdir()
    (theirs.folder / "again" / ".hydra").symlink_to(trained["gymnasium"] / ".hydra")
    ended = READERS["report"](theirs.folder, capfd)
    assert ended.code == 0
    assert ended.err.count("leads out of") == 1
    assert ended.err.count("\n") == 1


def test_the_picture_is_not_written_through_a_link(make, capfd):
    theirs = make()
    outside = theirs.secret / "precious"
    outside.write_text("precious")
    (theirs.folder / "sweep.png").symlink_to(outside)
    (theirs.folder / f".sweep.png.{os.getpid()}.tmp").symlink_to(outside)
    assert READERS["report"](theirs.folder, capfd).code == 0
    assert outside.read_text() == "precious"
    assert not (theirs.folder / "sweep.png").is_symlink()


def test_an_atomic_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_checkpoint_that_is_large_for_its_run_only_is_refused(trained):
    path = trained["pendulum"] / LAST
    check_checkpoint(trained["pendulum"], path, needed=100)
    large = shutil.copy(path, path.with_name("large.pt"))
    os.truncate(large, 2_000_000)
    with pytest.raises(UserError, match=r"it has 2\.0 MB, .* at most 1\.0 MB"):
        check_checkpoint(trained["pendulum"], large, needed=100)
    large.unlink()
