from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_offload.errors import BadQuantity, UnknownName, UsageError
from jupyter_offload.kernel.options import (
    CELL_FLAGS,
    Options,
    cell_parser,
    make_options,
    parse_options,
    run_parser,
    split,
)

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)


def read(line: str) -> Options:
    return parse_options(cell_parser().read(split(line)))


def test_the_issues_own_line() -> None:
    options = read(
        '-i X,y -o scores --cpus 2 --memory 1GiB --time 10m --name svm --site pool --file helpers/ --fetch "plots/*.png"'
    )
    assert options.inputs == ("X", "y")
    assert options.outputs == ("scores",)
    assert (options.cpus, options.memory, options.time_seconds) == ("2", "1GiB", 600)
    assert (options.name, options.site, options.files, options.fetch) == (
        "svm",
        "pool",
        ("helpers/",),
        ("plots/*.png",),
    )
    assert options.waits


def test_nothing_said_is_automatic_and_does_not_wait() -> None:
    options = read("")
    assert options.inputs is None
    assert options == Options()
    assert not options.waits
    assert read("-i none").inputs == ()
    assert read("-i auto").inputs is None


def test_gpus_secrets_and_repetition() -> None:
    options = read(
        "--gpus A100:4 --secret A=x B=y --secret C=z --file a b --file c --pip 'uproot>=5' -o a -o b,c --detach"
    )
    assert (options.gpus, options.gpu_model) == (4, "A100")
    assert options.secrets == {"A": "x", "B": "y", "C": "z"}
    assert options.files == ("a", "b", "c")
    assert options.pip == ("uproot>=5",)
    assert options.outputs == ("a", "b", "c")
    assert not options.waits


@given(
    st.dictionaries(NAMES, TEXT, max_size=4),
    st.lists(TEXT.filter(lambda text: text and not text.startswith("-")), max_size=4),
)
def test_quoted_words_arrive_as_they_were(env: dict[str, str], fetch: list[str]) -> None:
    line = ""
    if env:
        line += " --env " + " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
    if fetch:
        line += " --fetch " + " ".join(map(shlex.quote, fetch))
    options = read(line)
    assert options.env == env
    assert options.fetch == tuple(fetch)


@given(TEXT)
def test_any_line_is_read_or_refused_with_a_hint(line: str) -> None:
    try:
        read(line)
    except UsageError as error:
        assert error.hint


def test_nothing_is_expanded() -> None:
    options = read('--env "A=$HOME {n} `id` $(id) ~" --fetch $HOME/*')
    assert options.env == {"A": "$HOME {n} `id` $(id) ~"}
    assert options.fetch == ("$HOME/*",)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("--wiat", UnknownName, "--wait"),
        ("--memroy 1GiB", UnknownName, "--memory"),
        ("--memory 1GIB", BadQuantity, "memory"),
        ("--cpus 0", BadQuantity, "cpus"),
        ("--time soon", BadQuantity, "soon"),
        ("--gpus many", BadQuantity, "--gpus 2"),
        ("--cpus", UsageError, "--cpus"),
        ("--env A", UsageError, "has no ="),
        ("--env 1A=2", UsageError, "1A"),
        ("--env A=1 A=2", UsageError, "twice"),
        ("-i none,a", UsageError, "none"),
        ("-o a.b", UsageError, "a.b"),
        ("-o class", UsageError, "class"),
        ("--name 'x y'", UsageError, "x y"),
        ("--wait --detach", UsageError, "contradict"),
        ("--again --reuse", UsageError, "contradict"),
        ("'open", UsageError, "quot"),
        ("stray", UsageError, "stray"),
    ],
)
def test_mistakes(line: str, kind: type[UsageError], says: str) -> None:
    with pytest.raises(kind) as caught:
        read(line)
    assert says in str(caught.value)
    assert caught.value.hint


def test_keywords_are_checked_alike() -> None:
    made = make_options(cpus=2, memory="1GiB", time=90, gpus="A100:2", files="a", env={"A": 1})
    assert (made.cpus, made.time_seconds, made.gpus, made.files, made.env) == ("2", 90, 2, ("a",), {"A": "1"})
    with pytest.raises(UnknownName, match="memory"):
        make_options(memroy="1GiB")
    with pytest.raises(UsageError):
        make_options(files=3)


def test_every_flag_is_known_for_completion() -> None:
    for flag in (
        "-i",
        "-o",
        "--cpus",
        "--memory",
        "--disk",
        "--gpus",
        "--time",
        "--name",
        "--site",
        "--image",
        "--file",
    ):
        assert flag in CELL_FLAGS
    for flag in (
        "--fetch",
        "--secret",
        "--pip",
        "--env",
        "--wait",
        "--detach",
        "--again",
        "--reuse",
        "--no-rerun",
        "--dry-run",
    ):
        assert flag in CELL_FLAGS


def test_run_takes_a_notebook_and_its_parameters() -> None:
    found = run_parser().read(split("a.ipynb -o out/b.ipynb -p n=3 --cpus 2"))
    assert (found.notebook, found.output, found.parameter) == ("a.ipynb", "out/b.ipynb", ["n=3"])
    assert parse_options(found, cell=False).cpus == "2"
