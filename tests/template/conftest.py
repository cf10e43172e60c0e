import pytest

from tests.template.cfn import Stack, deploy

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"


@pytest.fixture(scope="session")
def stack() -> Stack:
    """Deployed with every default."""
    return deploy()


@pytest.fixture(scope="session")
def full() -> Stack:
    """Deployed with every option switched on."""
    return deploy(
        AlarmTopicArn=TOPIC,
        CodeSigningConfigArn="arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-1",
        JwtAudience="sagas",
        JwtIssuer="https://id.example.com",
        KmsKeyArn=KEY,
        MonthlyBudget="50",
        TenantClaim="org",
        WorkerPolicyArn="arn:aws:iam::123456789012:policy/steps",
    )
