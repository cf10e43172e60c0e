"""The expression language by DynamoDB's rules, those that moto gets wrong in particular.

The rules are those of the DynamoDB guide ("Comparison operator and function
reference", "Using update expressions"), and where it is silent dynalite's.
"""

from __future__ import annotations

import pytest

from tests.simulation.aws_errors import ValidationError
from tests.simulation.expressions import condition_text, update_text
from tests.simulation.values import Item, Value

ITEM: Item = {
    "word": {"S": "abc"},
    "n": {"N": "10"},
    "half": {"N": "1.5"},
    "zero": {"N": "0"},
    "bytes": {"B": b"\x01\x02"},
    "yes": {"BOOL": True},
    "nothing": {"NULL": True},
    "seq": {"L": [{"S": "a"}, {"M": {"x": {"N": "1"}}}, {"S": "c"}]},
    "doc": {"M": {"x": {"S": "deep"}, "y": {"L": [{"N": "1"}, {"N": "2"}]}}},
    "twin": {"M": {"x": {"S": "deep"}, "y": {"L": [{"N": "1"}, {"N": "2"}]}}},
}
VALUES: dict[str, Value] = {
    ":a": {"S": "a"},
    ":abc": {"S": "abc"},
    ":abd": {"S": "abd"},
    ":zero": {"N": "0"},
    ":one": {"N": "1"},
    ":two": {"N": "2"},
    ":nine": {"N": "9"},
    ":ten": {"N": "10"},
    ":bytes": {"B": b"\x01"},
    ":yes": {"BOOL": True},
    ":null": {"NULL": True},
    ":list": {"L": []},
}


def holds(text: str, item: Item = ITEM) -> bool:
    condition = condition_text("ConditionExpression", text, ())
    for check in condition.checks:
        check(VALUES)
    return condition.holds(item, VALUES)


def updated(text: str, item: Item = ITEM) -> Item:
    update = update_text(text, ())
    for check in update.checks:
        check(VALUES)
    return update.apply(item, VALUES, {"pk": {"S": "k"}})


class TestConditions:
    @pytest.mark.parametrize(
        "text",
        [
            "word = :abc",
            "word <> :a",
            "word < :abd AND word >= :abc",
            "n > :nine",  # as numbers; as texts it would not be
            "n BETWEEN :nine AND :ten",
            "zero BETWEEN :zero AND :one",  # moto: no
            "zero <= :zero",
            "word IN (:a, :abc)",
            "begins_with(word, :a)",
            "begins_with(bytes, :bytes)",  # moto: no
            "bytes > :bytes",
            "doc = twin",
            "doc.x <> doc.y",
            "seq[1].x = :one",
            "doc.y[1] = :two",
            "attribute_exists(nothing)",
            "attribute_exists(doc.y[0])",
            "attribute_not_exists(doc.y[2])",
            "attribute_not_exists(doc.y.x)",
            "attribute_not_exists(word.x)",
            "NOT word = :a",
            "NOT (word = :a OR n = :nine)",
            "word = :a OR n = :ten",
            "not word = :a and n = :ten",
        ],
    )
    def test_these_hold(self, text: str):
        assert holds(text)

    @pytest.mark.parametrize(
        "text",
        [
            "yes = :one",  # moto: they are equal
            "n = :abc",
            "n < :abc",  # moto breaks down
            "word > :one",
            "nothing < :one",
            "seq < :one",
            "n BETWEEN :a AND :abd",
            "attribute_exists(seq[3])",
            "word = :abc AND n = :nine",
        ],
    )
    def test_these_do_not_hold(self, text: str):
        assert not holds(text)

    @pytest.mark.parametrize(
        "text",
        [
            "nope = :a",
            "nope = gone",  # moto: they are equal
            "nope = :null",  # moto: they are equal
            "nope < :a",
            "nope >= :a",
            "n < nope",
            "nope BETWEEN :a AND :abd",
            "nope IN (:null, :a)",
            "begins_with(nope, :a)",
            "word IN (nope, gone)",
        ],
    )
    def test_an_absent_attribute_makes_comparisons_false(self, text: str):
        assert not holds(text)
        assert holds(f"NOT ({text})")

    def test_an_absent_attribute_is_unequal_to_everything(self):
        assert holds("nope <> :a")
        assert holds("nope <> :null")

    def test_no_item_is_an_item_without_attributes(self):
        assert holds("attribute_not_exists(n)", {})
        assert not holds("n = :ten", {})

    def test_and_binds_tighter_than_or_and_not_tighter_than_and(self):
        assert holds("word = :abc OR word = :a AND n = :nine")
        assert not holds("(word = :abc OR word = :a) AND n = :nine")
        assert not holds("NOT word = :abc AND n = :ten")

    @pytest.mark.parametrize(
        "text",
        [
            "n <",
            "AND n = :ten",
            "n = :ten AND",
            "n = :ten n = :ten",
            "(n = :ten",
            "n = :ten)",
            "n == :ten",
            "n",
            "n IN ()",
            "n BETWEEN :one",
            "NOT",
            "attribute_exists()",
            "attribute_exists(n, word)",
            "attribute_exists(:one)",
            "begins_with(n)",
            "exists(n)",
            "if_not_exists(n, :one) = :one",
            "n = :ten; n = :ten",
            "seq[x] = :one",
            "seq[-1] = :one",
            "name = :one",
            "doc.name = :one",
            "((n = :ten))",
            "n = n",
            "n IN (:one, n)",
            "n BETWEEN n AND :ten",
            "",
        ],
    )
    def test_what_is_no_condition_is_refused(self, text: str):
        with pytest.raises(ValidationError, match="Invalid ConditionExpression: "):
            holds(text)

    @pytest.mark.parametrize(
        "text",
        [
            "n < :yes",
            "nope >= :null",
            "n BETWEEN :list AND :ten",
            "begins_with(word, :one)",
            "n BETWEEN :ten AND :nine",
            "n BETWEEN :one AND :abc",
        ],
    )
    def test_literals_are_looked_at_before_any_item_is(self, text: str):
        with pytest.raises(ValidationError, match="Invalid ConditionExpression: "):
            holds(text, {})

    def test_a_function_without_a_model_is_no_one_s_mistake(self):
        with pytest.raises(NotImplementedError):
            holds("size(word) = :one")

    def test_an_expression_has_its_limits(self):
        term = "word = :abc"
        with pytest.raises(ValidationError, match="maximum allowed size"):
            holds(" OR ".join([term] * 300))
        short = " OR ".join(["n=:one"] * 151)
        with pytest.raises(ValidationError, match="too many operators"):
            holds(short)
        with pytest.raises(ValidationError, match="too many operands"):
            holds(f"n IN ({','.join([':one'] * 101)})")
        assert holds(f"n IN ({','.join([':one'] * 99)}, :ten)")


class TestUpdates:
    def test_values_are_set(self):
        after = updated("SET n = :two, fresh = :abc, doc.z = :one")
        assert after["n"] == {"N": "2"}
        assert after["fresh"] == {"S": "abc"}
        assert after["doc"]["M"]["z"] == {"N": "1"}

    def test_numbers_are_added_and_subtracted_exactly(self):
        assert updated("SET n = n + :one")["n"] == {"N": "11"}
        assert updated("SET n = :one - n")["n"] == {"N": "-9"}
        assert updated("SET n = half + half")["n"] == {"N": "3"}
        assert updated("SET n = half - :two")["n"] == {"N": "-0.5"}

    def test_what_is_there_is_kept_by_if_not_exists(self):
        assert updated("SET n = if_not_exists(n, :two)")["n"] == {"N": "10"}
        assert updated("SET m = if_not_exists(m, :two)")["m"] == {"N": "2"}
        assert updated("SET m = if_not_exists(m, :two) + :one")["m"] == {"N": "3"}
        assert updated("SET m = if_not_exists(nope, if_not_exists(gone, :two))")["m"] == {"N": "2"}

    def test_every_value_is_computed_from_the_item_as_it_was(self):
        after = updated("SET n = half, half = n REMOVE word")
        assert (after["n"], after["half"]) == ({"N": "1.5"}, {"N": "10"})
        assert updated("REMOVE word SET n = word")["n"] == {"S": "abc"}

    def test_a_copy_is_a_copy(self):
        after = updated("SET copied = doc, doc.x = :a")  # moto: both change
        assert after["copied"]["M"]["x"] == {"S": "deep"}
        assert after["doc"]["M"]["x"] == {"S": "a"}

    def test_the_item_before_stays_as_it_was(self):
        before = repr(ITEM)
        updated("SET doc.y[0] = :a, seq[1].x = :a, seq[9] = :a REMOVE word, doc.x")
        assert repr(ITEM) == before

    def test_list_indexes_mean_the_list_as_it_was(self):
        after = updated("REMOVE seq[0], seq[1]")
        assert after["seq"]["L"] == [{"S": "c"}]
        after = updated("SET seq[2] = :one, seq[8] = :two, seq[7] = :ten REMOVE seq[0]")
        assert after["seq"]["L"] == [ITEM["seq"]["L"][1], {"N": "1"}, {"N": "10"}, {"N": "2"}]

    def test_removing_what_is_not_there_changes_nothing(self):
        assert updated("REMOVE nope, seq[7], doc.z") == ITEM

    def test_a_new_item_begins_with_its_key(self):
        assert updated("SET n = :one", {}) == {"pk": {"S": "k"}, "n": {"N": "1"}}

    def test_a_number_is_added(self):
        assert updated("ADD n :one, fresh :two") == {
            **ITEM,
            "n": {"N": "11"},
            "fresh": {"N": "2"},
        }

    @pytest.mark.parametrize(
        "text",
        [
            "SET nope.x = :one",
            "SET word.x = :one",  # moto: nothing happens
            "SET doc[0] = :one",
            "SET seq.x = :one",
            "SET seq[7].x = :one",
            "REMOVE word.x",  # moto breaks down
            "REMOVE seq[0].x",
            "SET n = nope",
            "SET n = nope + :one",
            "SET n = word + :one",
            "SET n = if_not_exists(nope, gone)",
            "ADD word :one",
        ],
    )
    def test_what_does_not_fit_the_item_is_refused(self, text: str):
        with pytest.raises(ValidationError):
            updated(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "n = :one",
            "SET",
            "SET n",
            "SET n = ",
            "SET n = :one,",
            "SET n = :one + :one + :one",
            "SET n = :one * :two",
            "SET n = size",
            "SET n = attribute_exists(n)",
            "SET n = :one SET m = :one",
            "SET name = :one",
            "REMOVE",
            "REMOVE :one",
            "ADD n one",
            "SET n = :abc + :one",
            "SET n = if_not_exists(n, :abc - :one)",
            "ADD n :abc",
            "SET n = :one, n = :two",
            "SET n = :one REMOVE n",
            "SET doc = :one, doc.x = :two",
            "SET doc.x = :one REMOVE doc",  # moto does not mind
            "SET doc.x = :one, doc[0] = :two",
        ],
    )
    def test_what_is_no_update_is_refused(self, text: str):
        with pytest.raises(ValidationError, match="Invalid UpdateExpression: "):
            updated(text)

    @pytest.mark.parametrize(
        "text", ["DELETE n :one", "ADD doc.x :one", "SET seq = list_append(seq, :list)"]
    )
    def test_what_has_no_model_is_no_one_s_mistake(self, text: str):
        with pytest.raises(NotImplementedError):
            updated(text)


def test_names_stand_for_attributes_of_any_name():
    names = (("#name", "name"), ("#x", "a.b"))
    condition = condition_text("ConditionExpression", "#name = :a AND attribute_exists(#x)", names)
    assert condition.holds({"name": {"S": "a"}, "a.b": {"S": "one name"}}, VALUES)
    assert condition.names == {"#name", "#x"}
    assert condition.values == {":a"}


def test_a_text_is_parsed_once():
    assert condition_text("ConditionExpression", "n = :one", ()) is condition_text(
        "ConditionExpression", "n = :one", ()
    )
