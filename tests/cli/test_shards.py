"""`unpod-async plan`, `export --plan --shard` and `merge`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.harness import run_cli, settings
from tests.export.dataset import assert_holds
from unpod_async import ExportPlan
from unpod_async.testing import Sandbox


async def test_a_plan_its_shards_and_the_merge(tmp_path: Path) -> None:
    plan, data = str(tmp_path / "plan.json"), str(tmp_path / "data")
    async with Sandbox(runs=12) as sandbox:
        env = settings(sandbox)
        made = await run_cli(env, "plan", sandbox.space_token, plan, "--shards", "3", "--format", "csv")
        assert (made.status, made.out) == (0, "12 runs in 3 shards\n")
        assert made.err == (
            "Export the shards 0 to 2, on any machines:\n"
            f"  unpod-async export --plan {plan} --shard 0 TARGET\n"
            "When all shards have been exported, join them:\n"
            f"  unpod-async merge {plan} TARGET\n"
        )
        for shard in ("0", "1", "2"):
            result = await run_cli(
                env, "export", "--plan", plan, "--shard", shard, data, "--concurrency", "2"
            )
            assert (result.status, json.loads(result.out)["complete"]) == (0, True)
        merged = await run_cli({}, "merge", plan, data)
        assert (merged.status, json.loads(merged.out)["runs"], merged.err) == (0, 12, "")
        assert_holds(Path(data), sandbox, "csv")

        assert (await run_cli(env, "plan", "--extend", plan)).out == "12 runs in 3 shards\n"
        sandbox.insert_run()
        extended = await run_cli(env, "plan", "--extend", plan)
        assert (extended.status, extended.out) == (0, "13 runs in 4 shards\n")
        assert "--shard 3" in extended.err
        missing = await run_cli({}, "merge", plan, data)
        assert missing.status == 1
        assert "shard 3 has not been exported" in missing.err
        assert "hint:" in missing.err
        await run_cli(env, "export", "--plan", plan, "--shard", "3", data)
        table = await run_cli({}, "merge", plan, data, "--table")
        # A merge sends no requests and fetches nothing.
        names = [line.partition("  ")[0] for line in table.out.splitlines() if line[0] != " "]
        assert (table.status, names) == (0, ["Target", "Complete", "Data set", "Files", "Merged"])
        assert_holds(Path(data), sandbox, "csv")


async def test_rows_that_are_missing_give_status_3(tmp_path: Path) -> None:
    plan, data = str(tmp_path / "plan.json"), str(tmp_path / "data")
    async with Sandbox(runs=4) as sandbox:
        env = settings(sandbox)
        sandbox.poison(sandbox.run_ids()[1])
        made = await run_cli(env, "plan", sandbox.space_token, plan, "--shards", "1")
        assert made.status == 3
        assert "1 row of the listing of runs cannot be read" in made.err
        await run_cli(env, "export", "--plan", plan, "--shard", "0", data)
        merged = await run_cli({}, "merge", plan, data)
        assert (merged.status, json.loads(merged.out)["complete"]) == (3, False)
        assert "then merge them" in merged.err


async def test_a_key_of_the_hashes_comes_from_a_file(tmp_path: Path) -> None:
    plan, data, key = tmp_path / "plan.json", str(tmp_path / "data"), tmp_path / "key"
    key.write_text("a key for tests\n")
    key.chmod(0o600)
    async with Sandbox(runs=2) as sandbox:
        env = settings(sandbox)
        options = ("--redact", "hash", "--redact-key-file", str(key))
        assert (
            await run_cli(env, "plan", sandbox.space_token, str(plan), "--shards", "1", *options)
        ).status == 0
        assert "a key for tests" not in plan.read_text()
        shard = ("export", "--plan", str(plan), "--shard", "0", data)
        without = await run_cli(env, *shard)
        assert without.status == 2
        assert "redact" in without.err
        assert (await run_cli(env, *shard, "--redact-key-file", str(key))).status == 0
        assert (await run_cli({**env, "UNPOD_REDACT_KEY": "a key for tests"}, *shard)).status == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("plan", "PLAN", "--shards", "2"), "give SPACE, PLAN and --shards N"),
        (("plan", "SPACE", "OTHER"), "give SPACE, PLAN and --shards N"),
        (("plan", "SPACE", "PLAN", "--shards", "0"), "invalid value for '--shards'"),
        (("plan", "SPACE", "PLAN", "--shards", "2"), "exists"),
        (("plan", "SPACE", "PLAN", "--extend"), "cannot be combined with --extend"),
        (("plan", "--extend", "MISSING"), "cannot be read"),
        (("export", "SPACE"), "TARGET\nhint: such as `unpod-async export SPACE data`\n"),
        (("export", "SPACE", "OTHER", "TARGET"), "TARGET\nhint: add more spaces with --space SPACE\n"),
        (("export", "--plan", "PLAN", "TARGET"), "belong together"),
        (("export", "--shard", "0", "TARGET"), "belong together"),
        (("export", "--plan", "PLAN", "--shard", "0", "SPACE", "TARGET"), "cannot be combined with --plan"),
        (("export", "--plan", "PLAN", "--shard", "9", "TARGET"), "has no shard 9"),
        (("export", "--plan", "PLAN", "--shard", "-1", "TARGET"), "has no shard -1"),
        (("export", "--plan", "PLAN", "--shard", "0", "TARGET", "--format", "csv"), "decided by the plan"),
        (("export", "--plan", "OTHER", "--shard", "0", "TARGET"), "is not a plan"),
        (("merge", "PLAN", "TARGET"), "has no shards"),
        (("merge", "MISSING", "TARGET"), "cannot be read"),
    ],
)
async def test_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OTHER").write_text("{}")
    async with Sandbox(runs=2) as sandbox:
        async with sandbox.client() as unpod:
            (await unpod.plan_export(sandbox.space_token, shards=2)).save("PLAN")
        before = sandbox.requests
        result = await run_cli(settings(sandbox), *argv)
        assert result.status in {1, 2}
        assert said in result.err
        assert "Traceback" not in result.err
        assert sandbox.requests == before
    assert not (tmp_path / "TARGET").exists()
    assert ExportPlan.load("PLAN").shards == 2
