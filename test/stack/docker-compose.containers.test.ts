import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { DockerComposeEnvironment, Wait } from 'testcontainers';
import type { StartedDockerComposeEnvironment } from 'testcontainers';
import { request } from 'undici';

/** The first time, images are pulled and built. */
const UP_MS_MAX = 1_200_000;

let environment: StartedDockerComposeEnvironment | undefined;

beforeAll(async () => {
  environment = await new DockerComposeEnvironment('.', 'docker-compose.yml')
    .withBuild()
    .withStartupTimeout(UP_MS_MAX)
    .withWaitStrategy('prepare-1', Wait.forOneShotStartup())
    .withWaitStrategy('api-1', Wait.forHealthCheck())
    .up();
}, UP_MS_MAX);
afterAll(async () => {
  await environment?.down({ removeVolumes: true });
});

test('docker compose up is all that it takes: an opt-out arrives in the store that must hold it, verified', async () => {
  const { output } = await environment!
    .getContainer('api-1')
    .exec(['node', '-p', "require('node:fs').readFileSync('/data/admin.key', 'utf8')"]);
  const { body } = await request('http://127.0.0.1:8080/v1/opt-outs', {
    method: 'POST',
    headers: {
      authorization: `Bearer ${output.trim()}`,
      'content-type': 'application/json',
      prefer: 'wait=30',
    },
    body: JSON.stringify({ subject: { push_token: 'a-token' } }),
    headersTimeout: 60_000,
  });

  expect(await body.json()).toMatchObject({ propagation: { state: 'complete', required: 1, verified: 1 } });
});
