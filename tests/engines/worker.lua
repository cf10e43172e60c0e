-- The worker as a Lambda function of roto's: a process under the real runtime client.
local env = {
  AWS_ENDPOINT_URL = roto.endpoint,
  AWS_ACCESS_KEY_ID = "test",
  AWS_SECRET_ACCESS_KEY = "test",
  AWS_REGION = "us-east-1",
  AWS_DEFAULT_REGION = "us-east-1",
  SAGA_TABLE = "sagas",
  SAGA_QUEUE_URL = roto.endpoint .. "/" .. roto.vars.account .. "/work",
  SAGA_DEFINITIONS = "tests.engines.on_roto:CHAIN",
  SAGA_STEP_SECONDS = "1",
  SAGA_ANSWERS = roto.vars.answers,
}
for _, name in ipairs({ "worker", "misnaming" }) do
  roto.lambda.fn(name, {
    timeout = 8,
    memory_size = 256,
    executor = {
      runtime = { roto.vars.python, "-m", "awslambdaric", "tests.engines.on_roto." .. name },
      cwd = roto.vars.root,
      env = env,
    },
  })
end
