"""Whatever the bytes, a log is a sound table or one clear line: never another error."""

import io

import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metajax.data.logs import read
from metajax.data.table import validate
from metajax.types import UserError

CSV = b"user_id,item_id,rating,timestamp\n7,a b,5,2001-09-09\n3,c,1.5,2001-09-10T01:02:03Z\n"
INTER = b"user_id:token\titem_id:token\trating:float\n7\tb\t5\n3\ta\t1\n"


def parquet():
    buffer = io.BytesIO()
    columns = {"user": ["a", "b"] * 50, "item": list(range(100)), "rating": [0.5, 1.0] * 50}
    polars.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


@st.composite
def damaged(draw, whole):
    """The bytes with a stretch replaced, removed or put in twice."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 40)))
    patch = draw(st.one_of(st.binary(max_size=20), st.just(whole[start:end] * 2)))
    return whole[:start] + patch + whole[end:]


def cases():
    texts = st.one_of(damaged(CSV), st.binary(max_size=60)).map(lambda b: ("log.csv", b))
    atomic = damaged(INTER).map(lambda b: ("log.inter", b))
    packed = damaged(parquet()).map(lambda b: ("log.parquet", b))
    return st.one_of(texts, atomic, packed)


@pytest.mark.filterwarnings("ignore")  # what polars says of damaged files is not the matter here
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=cases())
def test_table_or_one_line(tmp_path, case):
    name, content = case
    path = tmp_path / name
    path.write_bytes(content)
    try:
        table = read.load(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert validate(table) is table and table.num_users >= 2
