from launch.environment import has_wandb_key


def test_a_wandb_key_in_the_environment_or_in_netrc_is_seen(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_wandb_key()
    netrc.write_text("machine example.org login user password secret\n")
    assert not has_wandb_key()
    netrc.write_text("machine api.wandb.example login user password secret\n")
    assert has_wandb_key()
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_wandb_key()
