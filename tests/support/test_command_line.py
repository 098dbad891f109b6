import pytest
import typer

from pikvpress.support.command_line import told


@pytest.mark.parametrize("error", [ValueError("wrong"), TypeError("wrong"), FileNotFoundError("wrong")])
def test_errors_of_users_are_one_line(error, capsys):
    with pytest.raises(typer.Exit) as exit_, told():
        raise error
    assert exit_.value.exit_code == 2 and capsys.readouterr().err == "error: wrong\n"


def test_other_errors_are_passed_on():
    with pytest.raises(ZeroDivisionError), told():
        raise ZeroDivisionError
