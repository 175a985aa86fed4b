"""The server keeps what its OpenAPI document promises."""

import hypothesis
import schemathesis
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from r1jax.serve.openapi import document

CHECKS = [
    checks.not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]


schema = schemathesis.openapi.from_dict(document(["/v1"], keyed=False))


@schema.parametrize()
@hypothesis.settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_any_request_is_answered_as_described(door, case):
    case.call_and_validate(base_url=door.url, checks=CHECKS)
