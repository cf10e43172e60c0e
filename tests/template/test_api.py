"""The HTTP API."""

import json

import pytest

from tests.template.cfn import Stack, broken_rules, deploy

SCOPES = {
    "POST /sagas/{name}": "saga:start",
    "GET /sagas/{id}": "saga:read",
    "GET /sagas": "saga:read",
    "POST /sagas/{id}/resume": "saga:resume",
    "POST /sagas/{id}/cancel": "saga:cancel",
    "POST /sagas/{id}/skip": "saga:skip",
    "POST /answers/{token}": "saga:answer",
}


def routes(stack):
    found = stack.of_type("AWS::ApiGatewayV2::Route").values()
    return {r["RouteKey"]: r for r in found}


def test_the_routes(stack: Stack):
    assert routes(stack).keys() == SCOPES.keys()
    assert len(stack.of_type("AWS::ApiGatewayV2::Route")) == len(SCOPES)
    for route in routes(stack).values():
        assert route["ApiId"] == "${Api}"
        assert route["Target"] == "integrations/${ApiIntegration}"
    integration = stack["ApiIntegration"]
    assert integration["IntegrationType"] == "AWS_PROXY"
    assert integration["IntegrationUri"] == "${ApiFunction.Arn}"
    assert integration["PayloadFormatVersion"] == "2.0"


def test_without_an_issuer_every_route_asks_for_an_iam_signature(stack: Stack):
    for route in routes(stack).values():
        assert route["AuthorizationType"] == "AWS_IAM"
        assert not {"AuthorizerId", "AuthorizationScopes"} & route.keys()
    assert not stack.of_type("AWS::ApiGatewayV2::Authorizer")


def test_with_an_issuer_every_route_asks_for_a_token_with_its_scope(full: Stack):
    for key, route in routes(full).items():
        assert route["AuthorizationType"] == "JWT"
        assert route["AuthorizerId"] == "${JwtAuthorizer}"
        assert route["AuthorizationScopes"] == [SCOPES[key]]
    authorizer = full["JwtAuthorizer"]
    assert authorizer["AuthorizerType"] == "JWT"
    assert authorizer["IdentitySource"] == ["$request.header.Authorization"]
    assert authorizer["JwtConfiguration"] == {
        "Issuer": "https://id.example.com",
        "Audience": ["sagas"],
    }


@pytest.mark.parametrize(
    ("parameters", "broken"),
    [
        ({}, 0),
        ({"JwtIssuer": "https://id.example.com"}, 1),
        ({"JwtAudience": "sagas"}, 1),
        ({"JwtIssuer": "https://id.example.com", "JwtAudience": "sagas"}, 0),
        ({"TenantClaim": "org"}, 1),
        ({"TenantClaim": "org", "JwtIssuer": "https://id.example.com", "JwtAudience": "s"}, 0),
    ],
    ids=["iam", "issuer alone", "audience alone", "jwt", "claim without token", "claim of a token"],
)
def test_half_an_authoriser_is_refused(parameters, broken):
    assert len(broken_rules(**parameters)) == broken


def test_requests_are_throttled_and_counted():
    stack = deploy(ApiRateLimit="5", ApiBurstLimit="6")
    ((_, stage),) = stack.of_type("AWS::ApiGatewayV2::Stage").items()
    assert stage["DefaultRouteSettings"] == {
        "DetailedMetricsEnabled": True,
        "ThrottlingBurstLimit": "6",
        "ThrottlingRateLimit": "5",
    }
    assert (stage["StageName"], stage["AutoDeploy"]) == ("$default", True)


def test_the_access_log_says_who_and_how_but_not_what(stack: Stack):
    ((_, stage),) = stack.of_type("AWS::ApiGatewayV2::Stage").items()
    settings = stage["AccessLogSettings"]
    assert settings["DestinationArn"] == "${ApiAccessLogGroup.Arn}"
    assert stack["ApiAccessLogGroup"]["LogGroupName"].startswith("/aws/vendedlogs/")
    fields = json.loads(settings["Format"])
    assert {"requestId", "routeKey", "status"} <= fields.keys()
    # ids and contexts are in the path, the query, the headers and the body
    assert not [v for v in fields.values() if "path" in v or "header" in v or "claims" in v]
    assert all(v.startswith("$context.") for v in fields.values())


def test_the_address_of_the_api_is_an_output(stack: Stack):
    assert stack.outputs["ApiUrl"]["Value"] == "https://${Api}.execute-api.eu-west-1.amazonaws.com"
