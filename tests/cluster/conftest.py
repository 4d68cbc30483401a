"""A real cluster of two nodes, one core each, so that two workers or replicas stand on one each."""

import os
import warnings

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# On a busy machine Serve's proxy takes longer to start than Ray waits before it ends it.
os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = os.environ["RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"] = "60"

with warnings.catch_warnings():
    # Ray's own, of pydantic's newer forms, as it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ray
    import ray.data
    import ray.serve
    from ray.cluster_utils import Cluster

STORE = 100 * 2**20


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A cluster takes long to start, and its workers and replicas load their models each: `make test-long` has them."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def cluster():
    """Its address."""
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    )
    made.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=made.address, log_to_driver=False)
    yield made.address
    ray.shutdown()
    made.shutdown()
