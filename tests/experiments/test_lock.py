"""The lock on test tasks, read off the source: the ledger with the choices, then the test."""

import ast
import textwrap

import pytest

from experiments import HERE

NOTHING_TESTED = {"speed", "tools"}
"""The rooms that time programs and tune on meta-validation."""
ONLY_TIMED = {"adapt_large_memory.py", "latency.py", "stream.py"}
"""Experiments of other rooms that time programs: they write that nothing was opened."""
NOTHING_CHOSEN = {"protocols.py", "as_published.py"}
"""Experiments at the settings of papers: nothing is chosen on meta-validation."""
CHOICES = {"open_tests": 1, "freeze": 1, "opened_for": 2}
"""Who opens test tasks -> the place of the choices among the arguments."""
MAKERS = {"made", "kept", "written", "record_of", "upgraded"}
TESTS = {"test", "tests", "test_tasks"}


def name_of(call: ast.Call) -> str:
    """The name of the function that is called, without its module."""
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def calls(node: ast.AST) -> list[ast.Call]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Call)]


def empty(node: ast.AST) -> bool:
    """Whether it is written as ``{}`` or ``()``."""
    return ast.unparse(node) in ("{}", "()", "[]", "dict()", "tuple()")


def judges_early(function: ast.AST, opening: ast.Call) -> list[int]:
    """The lines before the opening where something is called on the test tasks.

    Their checksum is what the ledger needs; whatever else is computed of them waits.
    """
    checksums = [each for each in calls(function) if name_of(each) == "checksum"]
    allowed = {id(part) for each in (*checksums, opening) for part in ast.walk(each)}
    return [
        each.lineno
        for each in calls(function)
        if each.lineno < opening.lineno and id(each) not in allowed
        for arg in (*each.args, *(keyword.value for keyword in each.keywords))
        if isinstance(arg, ast.Name) and arg.id in TESTS
    ]


def faults(source: str, chooses: bool = True, tests: bool = True) -> list[str]:
    """What a module of an experiment does against the lock.

    Args:
      chooses: whether anything is chosen on meta-validation.
      tests: whether there are test tasks.
    """
    tree, found = ast.parse(source), []
    for call in calls(tree):
        told = {keyword.arg: keyword.value for keyword in call.keywords}
        if name_of(call) in MAKERS and "opened" in told and empty(told["opened"]) and tests:
            found.append(f"line {call.lineno}: a record of test tasks that nobody opened")
        if name_of(call) == "Opening":
            found.append(f"line {call.lineno}: an opening that is not from the ledger")
        place = CHOICES.get(name_of(call))
        if place is None:
            continue
        choices = call.args[place] if len(call.args) > place else told.get("choices")
        if choices is None or (empty(choices) and chooses):
            found.append(f"line {call.lineno}: opened without a hash of the choices")
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for opening in [each for each in calls(function) if name_of(each) in CHOICES]:
                early = judges_early(function, opening)
                found += [f"line {n}: test tasks are used before they are opened" for n in early]
    return found


SOURCES = [
    path
    for path in sorted(HERE.rglob("*.py"))
    if path.relative_to(HERE).parts[0] not in NOTHING_TESTED
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HERE)))
def test_an_experiment_opens_test_tasks_after_its_choices(path):
    own = path.name
    assert not faults(path.read_text(), own not in NOTHING_CHOSEN, own not in ONLY_TIMED)


def test_every_record_says_when_its_test_tasks_were_opened():
    """Whoever makes a record takes its openings from the ledger, or from whoever called."""
    makers = {
        path: call
        for path in SOURCES
        for call in calls(ast.parse(path.read_text()))
        if name_of(call) == "made" and ast.unparse(call.func) in ("records.made", "report.made")
    }
    assert len(makers) > 5
    for path, call in makers.items():
        assert "opened" in {keyword.arg for keyword in call.keywords}, path


PLANTED = {
    "opened before the choices are known": """
        def run(config):
            opened = records.open_tests(config, {}, "mine", ledger.checksum("all", config.people))
            return records.made("mine", config, opened=(opened,))
        """,
    "judged first, opened after": """
        def run(config, test):
            scores = judge(train(config), test)
            opened = records.open_tests(config, choose(config), "mine", ledger.checksum(test))
        """,
    "a ticket of its own making": """
        def run(config):
            return records.made("mine", config, opened=(records.Opening(times_opened=1),))
        """,
    "nobody opened": """
        def run(config, test):
            return large_report.written("mine", config, judge(train(config), test), opened=())
        """,
    "frozen without a choice": """
        def run(config, problem):
            source, tasks = problem.open_test(freeze(config, {}), "mine")
        """,
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_way_around_the_lock_is_seen(name):
    assert faults(textwrap.dedent(PLANTED[name]))


def test_what_the_lock_wants_is_let_through():
    assert not faults(
        textwrap.dedent("""
        def run(config, test):
            choices = choose(config)
            opened = records.open_tests(config, choices, "mine", ledger.checksum("all", test))
            return records.made("mine", config, (), judge(choices, test), opened=(opened,))
        """)
    )


NOT_JUDGING = {
    ("tables/clicks.py", "as_logits"),
    ("classics/few_shot.py", "in_batches"),
    ("regimes/world.py", "one_by_one"),
    ("ecommerce/runs.py", "adapted"),
    ("llm_distill/served.py", "milliseconds"),
    ("domains/chosen_arms.py", "penalized"),
    ("domains/cross_arms.py", "trial"),
}
"""Functions that call ``adapt`` to make a learner of a learner or a loss, or to time a request."""


def adapting(source: str) -> set[str]:
    """The functions at the top of a module that call a learner's ``adapt``."""
    return {
        getattr(part, "name", "")
        for part in ast.parse(source).body
        for call in calls(part)
        if ast.unparse(call.func).endswith(".adapt")
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HERE)))
def test_only_the_judge_adapts_and_predicts(path):
    """`evaluate` does, for every experiment; a loop of its own could differ from it unseen."""
    short = "/".join(path.parts[-2:])
    assert {(short, name) for name in adapting(path.read_text())} <= NOT_JUDGING
