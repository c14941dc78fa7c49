"""The text format of Prometheus."""

from mixer_jax.service.http.metrics import Metrics, sample


def lines(metrics):
    return [x for x in metrics.text().splitlines() if not x.startswith("#")]


def test_numbers_in_the_text_format():
    metrics = Metrics()
    metrics.requests.add("/v1/search", "POST", "200")
    metrics.requests.add("/v1/search", "POST", "200")
    metrics.refused.add(amount=3)
    for size in (1, 3, 8):
        metrics.observe("batch", size)
    metrics.gauge("held", "Now.", lambda: 7)
    assert lines(metrics) == [
        'mixer_requests_total{route="/v1/search",method="POST",status="200"} 2',
        'mixer_batch_size_bucket{le="1"} 1',
        'mixer_batch_size_bucket{le="2"} 1',
        'mixer_batch_size_bucket{le="4"} 2',
        'mixer_batch_size_bucket{le="8"} 3',
        'mixer_batch_size_bucket{le="+Inf"} 3',
        "mixer_batch_size_sum 12",
        "mixer_batch_size_count 3",
        "mixer_refused_total 3",
        "mixer_held 7",
    ]
    assert "# TYPE mixer_batch_size histogram" in metrics.text()


def test_seconds_are_counted_by_stage():
    metrics = Metrics()
    with metrics.timed("decode"):
        metrics.observe("encode", 0.02)
    found = lines(metrics)
    assert 'mixer_stage_seconds_bucket{stage="encode",le="0.01"} 0' in found
    assert 'mixer_stage_seconds_bucket{stage="encode",le="0.025"} 1' in found
    assert 'mixer_stage_seconds_count{stage="decode"} 1' in found


def test_labels_are_escaped():
    assert sample("a", {"b": 'c"\\\n'}, 1) == r'a{b="c\"\\\n"} 1'


def test_large_numbers_are_exact():
    assert sample("a", {}, 123456789) == "a 123456789"
