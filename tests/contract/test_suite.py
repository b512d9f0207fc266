import inspect
import subprocess
import sys
from collections import Counter

import broken
import pytest

from agentstore.drivers import registry
from agentstore.testing import ProcessContract, StoreContract

pytest_plugins = ["pytester"]

# What each defect is caught by; other tests may well fail too.
CAUGHT_BY = {
    "LosesEverySeventhAppend": "test_writers_at_once_keep_their_order",
    "StoresTheNewestFirst": "test_appends_issued_in_order_are_stored_in_order",
    "ReadsNewestFirst": "test_append_returns_what_is_stored",
    "LimitGivesTheOldest": "test_limit_and_bounds",
    "ForgetsCase": "test_session_ids_are_exact",
    "TrimsKeys": "test_keys_are_exact",
    "IgnoresExpectedSeq": "test_of_racing_writers_that_expect_one_seq_one_wins",
    "LacksWhatNobodyKnows": "test_what_lacks_is_known",
    "StoresRetriesTwice": "test_a_retry_stores_nothing",
    "RemembersRemovedIds": "test_removed_messages_free_their_ids",
    "UsesSeqsAgain": "test_seqs_are_never_used_again",
    "ForgetsSeqsOfTheDeleted": "test_purge_removes_what_has_expired",
    "OneBadAppendFailsAll": "test_a_bad_append_fails_alone",
    "StoresPartOfAnAppend": "test_readers_see_an_append_whole_or_not_at_all",
    "AnswersBeforeItStores": "test_every_read_sees_what_was_acknowledged",
    "AsksNobody": "test_another_user_is_turned_away",
    "LetsAnyoneDelete": "test_another_user_is_turned_away",
    "TTLDoesNotSlide": "test_a_session_s_ttl_slides",
    "ListsTheExpired": "test_an_expired_session_is_invisible_everywhere",
    "PagesByTimeAlone": "test_sessions_of_one_moment_are_listed_by_id",
    "SharesItsRecords": "test_values_are_copies",
    "CountsInFloats": "test_json_values",
    "ScansInUTF16": "test_scans_are_in_codepoint_order",
    "UsesVersionsAgain": "test_versions_never_repeat",
    "IgnoresVersions": "test_of_racing_creators_one_wins",
    "SetsOneByOne": "test_set_many_is_seen_whole",
    "IncrementClearsTheTTL": "test_a_key_s_ttl",
    "CutsTextAtNUL": "test_texts",
    "GoesOnAfterACancellation": "test_other_cancelled_calls",
    "BindsToItsFirstLoop": "test_several_loops_one_after_another",
    "CallsItselfUnfit": "test_what_examine_finds",
    "KeepsItsAdviceToItself": "test_what_examine_finds",
    "ShowsPoolsOfTheClosed": "test_the_figures_of_pools",
}


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs the suite, or some tests of it, on a driver of `broken`."""
    for name, driver in vars(broken).items():
        if inspect.isclass(driver):
            monkeypatch.setitem(registry._DRIVERS, name.lower(), registry.DriverSpec(f"broken:{name}"))

    def run(driver, tests):
        pytester.makepyfile(f"""
            import pytest
            from agentstore.testing import StoreContract

            class TestDriver(StoreContract):
                @pytest.fixture
                def database_url(self):
                    return "{driver.lower()}:"
        """)
        return pytester.runpytest_inprocess("-q", "-k", tests, "-p", "no:cacheprovider", "-W", "ignore").parseoutcomes()

    return run


@pytest.mark.parametrize(("driver", "test"), CAUGHT_BY.items(), ids=CAUGHT_BY)
def test_a_broken_driver_is_caught(run, driver, test):
    assert run(driver, test).get("failed"), f"{test} passes on a driver that {driver}"


def test_an_honest_driver_passes(run):
    outcomes = run("Honest", " or ".join(set(CAUGHT_BY.values())))
    outcomes.pop("deselected")
    assert set(outcomes) == {"passed"}


def test_every_defect_is_tried():
    drivers = {name for name, driver in vars(broken).items() if inspect.isclass(driver) and name[0] != "_"}
    assert drivers - {
        "MemoryBackend",
        "Honest",
        "SaysThatItIgnoresExpectedSeq",
        "AgentstoreError",
        "Finding",
        "PoolStats",
    } == set(CAUGHT_BY)


def test_a_declared_lack_is_reported(run):
    outcomes = run("SaysThatItIgnoresExpectedSeq", CAUGHT_BY["IgnoresExpectedSeq"])
    outcomes.pop("deselected")
    assert outcomes == {"xfailed": 1}


def test_no_test_hides_another():
    # the same name in two parts of the contract: only one of them would run
    parts = {cls for top in (StoreContract, ProcessContract) for cls in top.__mro__}
    names = Counter(name for cls in parts for name in vars(cls) if name.startswith("test"))
    assert [name for name, count in names.items() if count > 1] == []


def test_without_the_fixture_nothing_passes(pytester):
    pytester.makepyfile("""
        from agentstore.testing import StoreContract

        class TestDriver(StoreContract):
            pass
    """)
    outcomes = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider").parseoutcomes()
    assert set(outcomes) == {"errors"}


@pytest.mark.parametrize("package", ["pytest", "hypothesis"])
def test_a_missing_package_is_explained(package):
    code = f"import sys; sys.modules[{package!r}] = None; import agentstore.testing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'agentstore[testing]'" in result.stderr.splitlines()[-1]
