from pathlib import Path

import pytest

from launch.environment import has_wandb_key


def host() -> str:
    return "https://api.wandb.example"


def test_a_wandb_key_in_the_environment_or_in_netrc_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_wandb_key(host)
    netrc.write_text("machine example.org login user password secret\n")
    assert not has_wandb_key(host)
    netrc.write_text("machine api.wandb.example login user password secret\n")
    assert has_wandb_key(host)
    netrc.write_text("machine\n")
    assert not has_wandb_key(host)
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_wandb_key(host)


def test_w_and_b_itself_says_which_host_a_key_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.mine.example login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.mine.example:8443")
    assert has_wandb_key()
