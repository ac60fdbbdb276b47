from tests.support.artifacts import Layer, Pusher
from tests.support.driver import Driver


def test_publish_of_nested_names_shows_them(driver: Driver, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"hello", title="a/b/x.txt")])
    target = driver.target()
    driver.publish(target, reference=reference)
    assert (target / "a/b/x.txt").read_bytes() == b"hello"
    driver.unpublish(target)
    assert not target.exists()
    assert driver.mounts() == []
