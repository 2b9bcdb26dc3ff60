"Formats and files of the tables that are refused."
import pytest

from spurnb.core import UserError
from spurnb.report import tables


@pytest.mark.parametrize('formats, said', [
    (['cvs'], 'csv'), (['csv', 'excel'], "no format 'excel'"), (['parquet'], 'pip install pyarrow')])
def test_a_format_is_refused_before_anything_is_written(formats, said, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=said): tables.write_tables({}, tmp_path/'none', formats)
    assert not (tmp_path/'none').exists()
