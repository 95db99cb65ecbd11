"""What the bucket does by itself: the lifecycle beside the rules of others, and replication as S3 tells it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from dbops.backups import bucket, catalog
from dbops.backups.bucket import archive_rules, check_replication, ensure_lifecycle
from dbops.backups.store import S3Store, StoreRefused
from dbops_lab.testing import LabS3
from points_world import DAY, NOW, Manifest, names_below, take_chain

PLACE = ("eu", "bidder")


@pytest.fixture
def store(lab_s3: LabS3) -> Iterator[S3Store]:
    """A bucket of its own."""
    name = f"bucket-{secrets.token_hex(6)}"
    place = {"LocationConstraint": lab_s3.region}
    lab_s3.client.create_bucket(Bucket=name, CreateBucketConfiguration=place)
    yield S3Store(name, "", lab_s3.connection)
    lab_s3.faults()


def rules(store: S3Store) -> dict[str, dict[str, Any]]:
    return {rule["ID"]: rule for rule in store.lifecycle()["Rules"]}


class TestLifecycle:
    def test_our_rules_are_written_once_and_end_no_current_object(self, store: S3Store) -> None:
        assert store.lifecycle() == {"Rules": []}
        assert ensure_lifecycle(store) == bucket.LifecycleReport(changed=True, warnings=[])
        found = rules(store)
        uploads, versions = found["dbops aerospike/ unfinished uploads"], found["dbops aerospike/ old versions"]
        assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        assert versions["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
        assert "Expiration" not in uploads
        assert versions["Expiration"] == {"ExpiredObjectDeleteMarker": True}
        restores = found["dbops restores/ old versions"]
        assert {name: value for name, value in restores.items() if name not in {"ID", "Filter"}} == {
            name: value for name, value in versions.items() if name not in {"ID", "Filter"}
        }
        assert uploads["Filter"] == versions["Filter"] == {"Prefix": "aerospike/"}
        assert restores["Filter"] == {"Prefix": "restores/"}
        for rule in found.values():
            assert "Transitions" not in rule
        assert not ensure_lifecycle(store).changed

    def test_the_archive_moves_rows_by_age_and_leaves_its_documents_where_they_can_be_read(
        self, store: S3Store
    ) -> None:
        ensure_lifecycle(store)
        archive = S3Store(store.bucket, "archive", store._connection)
        wanted = archive_rules(
            archive.prefix, ["public.wins", "public.a b"], [(365, "DEEP_ARCHIVE"), (90, "GLACIER_IR")]
        )
        assert ensure_lifecycle(archive, wanted, root="").changed
        found = rules(store)
        assert len(found) == 3 + 5
        classes = found["dbops archive/public.wins storage classes"]
        assert classes["Filter"] == {"Prefix": "archive/public.wins/"}
        assert classes["Transitions"] == [
            {"Days": 90, "StorageClass": "GLACIER_IR"},
            {"Days": 365, "StorageClass": "DEEP_ARCHIVE"},
        ]
        ending = {name for name, rule in found.items() if "Days" in rule.get("Expiration", {})}
        assert ending == {"dbops archive/ ended leases"}
        assert not ensure_lifecycle(archive, wanted, root="").changed
        assert ensure_lifecycle(store) == bucket.LifecycleReport(changed=False, warnings=[])

    def test_a_rule_of_others_that_ends_archived_days_is_told(self, store: S3Store) -> None:
        theirs = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": "archive/"}, "Expiration": {"Days": 400}}
        store.set_lifecycle({"Rules": [theirs]})
        archive = S3Store(store.bucket, "archive", store._connection)
        report = ensure_lifecycle(archive, archive_rules(archive.prefix, [], []), root="")
        assert "deletes archived days after 400 days: narrow its filter" in report.warnings[0]
        assert ensure_lifecycle(store).warnings == [], "it touches no backup"

    def test_rules_of_others_stay(self, store: S3Store) -> None:
        theirs = [
            {"ID": "logs", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 3}},
            {
                "ID": "tagged",
                "Status": "Enabled",
                "Filter": {"And": {"Prefix": "x/", "Tags": [{"Key": "a", "Value": "b"}]}},
                "Expiration": {"Days": 1},
            },
            {
                "ID": "cold",
                "Status": "Disabled",
                "Filter": {"Prefix": ""},
                "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}],
            },
        ]
        store.set_lifecycle({"Rules": theirs})
        before = rules(store)
        assert ensure_lifecycle(store) == bucket.LifecycleReport(changed=True, warnings=[])
        after = rules(store)
        assert set(after) == {*before, *(rule["ID"] for rule in bucket.rules(""))}
        old_form = before.pop("logs")
        assert after["logs"] == {k: v for k, v in old_form.items() if k != "Prefix"} | {"Filter": {"Prefix": "logs/"}}
        assert {name: after[name] for name in before} == before

    def test_two_prefixes_of_one_bucket_have_rules_of_their_own(self, store: S3Store) -> None:
        other = S3Store(store.bucket, "staging/x", store._connection)
        ensure_lifecycle(store)
        ensure_lifecycle(other)
        assert len(rules(store)) == 6
        places = {"aerospike/", "restores/", "staging/x/aerospike/", "staging/x/restores/"}
        assert {rule["Filter"]["Prefix"] for rule in rules(store).values()} == places

    def test_a_changed_rule_of_ours_is_set_right(self, store: S3Store) -> None:
        ensure_lifecycle(store)
        found = store.lifecycle()
        found["Rules"][0]["Status"] = "Disabled"
        store.set_lifecycle(found)
        assert ensure_lifecycle(store).changed
        assert all(rule["Status"] == "Enabled" for rule in rules(store).values())

    @pytest.mark.parametrize("prefix", ["", "aero", "aerospike/", "aerospike/eu/"])
    def test_a_rule_that_deletes_or_freezes_backups_is_named(self, store: S3Store, prefix: str) -> None:
        harmful = {
            "ID": "clean up",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "Expiration": {"Days": 7},
            "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}],
        }
        store.set_lifecycle({"Rules": [harmful]})
        deleted, frozen = ensure_lifecycle(store).warnings
        assert deleted == (
            f"lifecycle rule 'clean up' of {store.url} deletes backups after 7 days, whatever retention decides: "
            "narrow its filter, or remove it"
        )
        assert "moves backups to DEEP_ARCHIVE" in frozen
        assert ensure_lifecycle(store).warnings == [deleted, frozen]

    def test_without_the_right_it_says_so(self, store: S3Store, lab_s3: LabS3) -> None:
        lab_s3.faults({"method": "PUT", "key": "lifecycle", "status": 403, "times": 9})
        with pytest.raises(StoreRefused, match=r"write the lifecycle of .* refused it"):
            ensure_lifecycle(store)


class TestReplication:
    def taken(self, store: S3Store) -> list[Manifest]:
        return [take_chain(store, age, slices=2)[0] for age in (3, 0.5)]

    def answer(self, lab_s3: LabS3, **states: str) -> None:
        """`manifest="FAILED"`: what S3 says of objects with such a name; `rest` of all others."""
        header = "x-amz-replication-status"
        orders = [
            {"method": "HEAD", "key": "" if name == "rest" else name, "headers": {header: state}, "times": 999}
            for name, state in sorted(states.items(), key=lambda item: item[0] == "rest")
        ]
        lab_s3.faults(*orders)

    def test_what_has_arrived_is_remembered_and_not_asked_again(self, store: S3Store, lab_s3: LabS3) -> None:
        old, new = self.taken(store)
        self.answer(lab_s3, rest="COMPLETED", slice_2048="REPLICA")
        report = check_replication(store, *PLACE, "eu-central-1", DAY, NOW)
        assert report.replicated == [f"eu/bidder {old.id}", f"eu/bidder {new.id}"]
        assert (report.pending, report.problems, report.objects) == ([], [], 6)
        assert "replicated.json" in names_below(store, old.prefix)
        self.answer(lab_s3, rest="FAILED")
        again = check_replication(store, *PLACE, "eu-central-1", DAY, NOW)
        assert (again.replicated, again.problems, again.objects) == (report.replicated, [], 0)

    def test_pending_is_no_problem_until_the_grace_period_is_over(self, store: S3Store, lab_s3: LabS3) -> None:
        old, new = self.taken(store)
        self.answer(lab_s3, rest="COMPLETED", slice_2048="PENDING")
        report = check_replication(store, *PLACE, "eu-central-1", DAY, NOW)
        assert report.pending == [f"eu/bidder {new.id}"]
        (problem,) = report.problems
        assert problem.startswith(
            f"eu/bidder {old.id}: 1 objects are still on their way to eu-central-1 after 2 d 23 h"
        )

    def test_failed_and_absent_are_problems_at_once(self, store: S3Store, lab_s3: LabS3) -> None:
        _, new = self.taken(store)
        self.answer(lab_s3, slice="FAILED", rest="COMPLETED")
        report = check_replication(store, *PLACE, "eu-central-1", DAY, NOW)
        assert len(report.problems) == 2
        assert f"{new.id}: slice_0000_2047.asb (and 1 more) could not be replicated" in report.problems[1]
        lab_s3.faults()
        report = check_replication(store, *PLACE, "eu-central-1", DAY, NOW)
        assert f"{new.id}: manifest.json (and 2 more) was not replicated to eu-central-1" in report.problems[1]
        store.delete([catalog.object_key(new, "slice_0000_2047.asb")])
        self.answer(lab_s3, rest="COMPLETED")
        report = check_replication(store, *PLACE, "eu-central-1", DAY, NOW + timedelta(hours=1))
        (problem,) = report.problems
        assert "slice_0000_2047.asb is not there any more" in problem
