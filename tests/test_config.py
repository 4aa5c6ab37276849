from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aesg
from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.validation import validate

DOCUMENTED_DEFAULTS = {
    "vector_dim": 256,
    "max_concepts": 1_000_000,
    "max_edges_per_node": 1000,
    "spreading_activation_steps": 3,
    "spreading_activation_decay": 0.8,
    "spreading_activation_frontier": 0,
    "region_facilitation_multiplier": 1.5,
    "novelty_explanation_threshold": 0.6,
    "novelty_birth_threshold": 3,
    "consolidation_epoch_interval": 10,
    "survival_threshold_relevance": 0.05,
    "survival_threshold_frequency": 5,
    "prune_confidence_threshold": 0.1,
    "coactivation_threshold_create": 50,
    "merge_similarity_threshold": 0.95,
    "split_density_threshold": 800,
    "abstraction_enabled": True,
    "region_detection_interval": 50,
    "max_events": 1_000_000,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "memory_mode": "TRAIN",
    "durability": "full",
    "storage_directory": None,
    "log_level": "INFO",
}

FIELDS = [field.name for field in dataclasses.fields(AESGConfig)]
INTEGERS = [name for name, value in DOCUMENTED_DEFAULTS.items() if type(value) is int]
FLOATS = [name for name, value in DOCUMENTED_DEFAULTS.items() if type(value) is float]
FRACTIONS = [n for n in FLOATS if n not in ("learning_rate", "region_facilitation_multiplier")]

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False) | st.integers(),
    "bool": st.booleans(),
    "str": st.text(),
    "str | None": st.none() | st.text(),
}
CONFIGS = st.fixed_dictionaries(
    {field.name: VALUES[str(field.type)] for field in dataclasses.fields(AESGConfig)}
).map(lambda values: AESGConfig(**values))


def config_with(name: str, value: Any) -> AESGConfig:
    overrides: dict[str, Any] = {name: value}
    return AESGConfig(**overrides)


def problem_of(**overrides: Any) -> str:
    """Return the message without its header."""
    with pytest.raises(AESGConfigError) as caught:
        validate(AESGConfig(**overrides))
    header, _, problems = caught.value.message.partition("\n")
    assert header == "Configuration validation failed:"
    return problems


def test_every_field_has_its_documented_default() -> None:
    assert dataclasses.asdict(AESGConfig()) == DOCUMENTED_DEFAULTS


@pytest.mark.parametrize(
    ("preset", "vector_dim", "max_concepts"),
    [
        (AESGConfig.for_text, 128, 500_000),
        (AESGConfig.for_image, 256, 200_000),
        (AESGConfig.for_classification, 64, 100_000),
    ],
)
def test_a_preset_sets_its_two_sizes_and_nothing_else(
    preset: Any, vector_dim: int, max_concepts: int
) -> None:
    assert preset() == AESGConfig(vector_dim=vector_dim, max_concepts=max_concepts)


def test_overrides_win_over_a_preset() -> None:
    config = AESGConfig.for_text(vector_dim=96, batch_size=8)
    assert (config.vector_dim, config.max_concepts, config.batch_size) == (96, 500_000, 8)


def test_a_config_cannot_be_changed() -> None:
    config = AESGConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vector_dim = 128  # type: ignore[misc]


def test_every_field_is_described_with_its_range_or_choices() -> None:
    described = dict(re.findall(r"^    (\w+) : (.*)$", AESGConfig.__doc__ or "", re.MULTILINE))
    assert list(described) == FIELDS
    for name in INTEGERS + FLOATS:
        text = (AESGConfig.__doc__ or "").split(f"    {name} : ")[1]
        assert "Range: " in text.split(" : ")[0], name


def test_json_is_indented_by_two_and_keeps_the_order_of_fields() -> None:
    text = AESGConfig(vector_dim=128, max_concepts=200_000).to_json()
    assert text.startswith('{\n  "vector_dim": 128,\n  "max_concepts": 200000,\n')
    assert list(json.loads(text)) == FIELDS


@given(CONFIGS)
def test_json_round_trip_is_exact(config: AESGConfig) -> None:
    assert AESGConfig.from_json(config.to_json()) == config


def test_fields_that_json_lacks_take_their_defaults() -> None:
    assert AESGConfig.from_json('{"vector_dim": 32}') == AESGConfig(vector_dim=32)


def test_json_with_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(AESGConfigError, match=r"unknown fields \['vector_dims'\]"):
        AESGConfig.from_json('{"vector_dims": 32}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"vector_dim": ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1, 2]", "got list, expected an object"),
        ("null", "got NoneType, expected an object"),
        ('{"vector_dim": "64"}', "Parameter 'vector_dim': got '64', expected integer"),
        ('{"vector_dim": 64.0}', "Parameter 'vector_dim': got 64.0, expected integer"),
        ('{"vector_dim": true}', "Parameter 'vector_dim': got True, expected integer"),
        ('{"learning_rate": null}', "Parameter 'learning_rate': got None, expected float"),
        ('{"abstraction_enabled": 1}', "Parameter 'abstraction_enabled': got 1, expected true"),
        ('{"log_level": null}', "Parameter 'log_level': got None, expected string"),
        ('{"storage_directory": 3}', "Parameter 'storage_directory': got 3, expected string or"),
    ],
)
def test_json_that_is_not_a_config_is_a_config_error(text: str, message: str) -> None:
    with pytest.raises(AESGConfigError) as caught:
        AESGConfig.from_json(text)
    assert message in caught.value.message


@pytest.mark.parametrize("preset", [AESGConfig, AESGConfig.for_text, AESGConfig.for_image])
def test_defaults_and_presets_are_valid(preset: Any) -> None:
    validate(preset())


def test_all_problems_are_reported_at_once_in_the_documented_words() -> None:
    with pytest.raises(AESGConfigError) as caught:
        validate(AESGConfig(vector_dim=-1, spreading_activation_decay=5.0))
    assert str(caught.value) == (
        "Configuration validation failed:\n"
        "Parameter 'vector_dim': got -1, expected integer >= 1\n"
        "Parameter 'spreading_activation_decay': got 5.0, expected float in [0.0, 1.0]"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("vector_dim", 0, "integer >= 1"),
        ("vector_dim", 8193, "integer in [1, 8192]"),
        ("vector_dim", 64.0, "integer in [1, 8192]"),
        ("max_concepts", 0, "integer >= 1"),
        ("spreading_activation_steps", 0, "integer >= 1"),
        ("spreading_activation_steps", 65, "integer in [1, 64]"),
        ("survival_threshold_frequency", -1, "integer >= 0"),
        ("region_facilitation_multiplier", -0.5, "finite float >= 0.0"),
        ("region_facilitation_multiplier", math.inf, "finite float >= 0.0"),
        ("learning_rate", 0.0, "finite float > 0.0"),
        ("learning_rate", 10**400, "finite float > 0.0"),
        ("abstraction_enabled", 1, "True or False"),
        ("memory_mode", "train", "one of ['TRAIN', 'FINETUNE', 'INFERENCE', 'ONLINE']"),
        ("memory_mode", ["TRAIN"], "one of ['TRAIN', 'FINETUNE', 'INFERENCE', 'ONLINE']"),
        ("log_level", "LOUD", "one of ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL']"),
        ("storage_directory", "", "a path or None"),
        ("storage_directory", 3, "a path or None"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_expected(
    name: str, value: Any, expected: str
) -> None:
    problem = problem_of(**{name: value})
    assert problem.startswith(f"Parameter '{name}': got {repr(value)[:50]}")
    assert problem.endswith(f", expected {expected}")


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [True, 1.5, math.nan, "1", None])
def test_an_integer_is_nothing_else(name: str, value: Any) -> None:
    assert "expected integer" in problem_of(**{name: value})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5", None])
def test_a_float_is_a_finite_number(name: str, value: Any) -> None:
    assert "float" in problem_of(**{name: value})


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_includes_both_ends_and_may_be_written_as_an_integer(name: str) -> None:
    for value in (0, 0.0, 1, 1.0):
        validate(config_with(name, value))
    for value in (-1e-9, 1.0 + 1e-9):
        assert problem_of(**{name: value}).endswith("expected float in [0.0, 1.0]")


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_includes_its_low_end(name: str) -> None:
    low = 0 if name in ("survival_threshold_frequency", "spreading_activation_frontier") else 1
    validate(config_with(name, low))
    assert problem_of(**{name: low - 1}).endswith(f"expected integer >= {low}")


def test_no_field_escapes_validation() -> None:
    for name in FIELDS:
        assert f"Parameter '{name}': got " in problem_of(**{name: object()})


def test_a_long_message_ends_at_a_whole_line_that_counts_the_rest() -> None:
    problems = problem_of(**dict.fromkeys(FIELDS, -1)).split("\n")
    *reported, last = problems
    match = re.fullmatch(r"\.\.\. and (\d+) more", last)
    assert match
    assert len(reported) + int(match[1]) == len(FIELDS)
    assert all(re.fullmatch(r"Parameter '\w+': got -1, expected .+", line) for line in reported)
    assert len("\n".join(problems)) <= 500


def test_a_huge_value_is_cut_where_it_is_quoted() -> None:
    problem = problem_of(vector_dim="x" * 10_000)
    assert len(problem) < 200
    assert problem.endswith("expected integer in [1, 8192]")


def test_something_else_than_a_config_is_a_config_error() -> None:
    with pytest.raises(AESGConfigError, match="got dict, expected AESGConfig"):
        validate({"vector_dim": 64})  # type: ignore[arg-type]


def fields_read(sources: Iterable[str]) -> set[str]:
    """Return the attributes of configs that source files read."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value).endswith("config")
    }


def test_every_field_is_read_where_it_matters() -> None:
    package = Path(aesg.__file__).parent
    paths = set(package.rglob("*.py")) - {package / "config.py", package / "validation.py"}
    assert set(FIELDS) - fields_read(path.read_text() for path in paths) == set()


def test_a_field_counts_as_read_only_where_it_is_read_from_a_config() -> None:
    sources = ["self.config.first", "config.second = 3\nother.third", "print(the_config.fourth)"]
    assert fields_read(sources) == {"first", "fourth"}
