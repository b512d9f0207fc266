"""What `db` says of replicas before anything is tried, and what is stacked."""

import pytest

from agentstore import ConfigurationError, db

PRIMARY = "postgresql://app:s3cret@h/talks"
MYSQL = "mysql://app:s3cret@h/talks"
REDIS = "redis://:s3cret@h/1?prefix=x"


@pytest.mark.parametrize(
    ("primary", "replica", "told"),
    [
        (PRIMARY, "mysql://r/talks", "that is another kind of store"),
        (PRIMARY, "postgresql://a,b/talks", "names several hosts. Give each replica a URL of its own"),
        (PRIMARY, "postgresql://other:user@h/talks", "is named twice"),
        (PRIMARY, "postgresql://r/other", "names another database or schema than its primary"),
        (PRIMARY, "postgresql://r/talks?schema=x", "names another database or schema than its primary"),
        (PRIMARY, "postgresql://r/talks?colour=red", "unknown option 'colour'"),
        (MYSQL, "mysql://r/other", "names another database than its primary"),
        (REDIS, "redis://r/1", "names another database or prefix than its master"),
        (REDIS, "redis://r/2?prefix=x", "names another database or prefix than its master"),
        (REDIS, "redis+sentinel://r/mymaster/1?prefix=x", "names no server. Give each replica a redis: URL"),
        ("redis+cluster://h", "redis://r", "a cluster has many masters"),
        ("mongodb://h/talks", "mongodb://r/talks", "can have no replicas: one URL names a whole replica set"),
        ("clickhouse://h/talks", "clickhouse://r/talks", "can have no replicas: the copies of a Replicated table"),
        ("sqlite:///a.db", "sqlite:///b.db", "can have no replicas: it is on this machine"),
        ("json:///a", "json:///b", "can have no replicas: it is on this machine"),
        (PRIMARY, "nosql://r/talks", "no driver knows the URL scheme"),
    ],
)
def test_what_cannot_be_a_replica_is_refused_at_once(primary, replica, told):
    with pytest.raises(ConfigurationError) as caught:
        db(primary, replicas=[replica])
    assert told in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_replica_is_named_once():
    with pytest.raises(ConfigurationError, match="is named twice"):
        db(PRIMARY, replicas=["postgresql://r/talks", "postgresql://x@r/talks"])


@pytest.mark.parametrize(
    ("primary", "replica"),
    [
        (PRIMARY, "postgres://reader:other@r/talks?application_name=reader"),
        ("postgresql://a,b/talks", "postgresql://b/talks"),  # whichever of them is the standby now
        (MYSQL, "mariadb://r:3307/talks"),
        (REDIS, "rediss://r/1?prefix=x"),
        ("redis+sentinel://s/mymaster/1", "redis://r/1"),
        ("redis+sentinel://s/mymaster", "redis+unix:///run/redis.sock"),
    ],
)
def test_what_may_be_a_replica_is_taken(primary, replica):
    database = db(primary, replicas=iter([replica]))
    (told,) = database.stats().replicas
    assert (told.in_use, told.reason) == (True, None)
    assert told.url.startswith(replica.partition(":")[0])
    assert "other" not in told.url, "which is the password"
    assert database.stats().to_dict()["replicas"] == [told.to_dict()]


def test_the_state_has_replicas_only_where_it_shares_the_backend():
    apart = db(PRIMARY, "postgresql://h/state", replicas=["postgresql://r/talks"])
    assert [side.replicated is not None for side in apart._stacks.sides] == [True, False]
    (shared,) = db(PRIMARY, replicas=["postgresql://r/talks"])._stacks.sides
    assert shared.replicated is not None
