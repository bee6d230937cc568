// What `.ci/run` makes of an audit, against a registry of the test's own.
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const PROGRAM = fileURLToPath(new URL('../../.ci/audit.mjs', import.meta.url));

/** `advisories` by package, or the status with which audits are refused. */
async function auditWith(advisories: object | number): Promise<{ code: number; output: string }> {
  const registry = createServer((request, response) => {
    request.resume();
    const send = (status: number, body: object): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (request.method !== 'POST') {
      const name = decodeURIComponent(request.url!.slice(1));
      const versions = Object.fromEntries(['0.0.1', '9.9.9'].map((version) => [version, { name, version }]));
      send(200, { name, 'dist-tags': { latest: '9.9.9' }, versions });
    } else if (typeof advisories === 'number') send(advisories, {});
    else send(200, advisories);
  });
  await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
  const { port } = registry.address() as AddressInfo;
  const cache = await mkdtemp(join(tmpdir(), 'abide-npm-'));
  try {
    return await new Promise((resolve) => {
      const env = {
        ...process.env,
        NODE_OPTIONS: '',
        npm_config_registry: `http://127.0.0.1:${port}/`,
        npm_config_fetch_retries: '0',
        npm_config_cache: cache,
      };
      execFile(process.execPath, [PROGRAM], { env }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr }),
      );
    });
  } finally {
    registry.closeAllConnections();
    await new Promise((resolve) => registry.close(resolve));
    await rm(cache, { recursive: true, force: true });
  }
}

const weakness = (severity: string) => ({
  koa: [{ id: 1, url: 'https://example.com/1', title: 'of a test', severity, vulnerable_versions: '<9.9.9' }],
});

test.each<[string, object | number, number, RegExp]>([
  ['nothing is known', {}, 0, /^npm audit: 0 known weaknesses/],
  ['one that is high fails', weakness('high'), 1, / [1-9]\d* high\n[^]* {2}high: koa 0\.0\.1/],
  ['one that is low is shown', weakness('low'), 0, / 0 high\n[^]* {2}low: koa 0\.0\.1/],
  [
    'a registry without audits is said, and fails nothing',
    405,
    0,
    /^!!! npm audit: NOT RUN: .* \(HTTP 405\)/,
  ],
  ['a registry that breaks is a failure', 500, 1, /^npm audit failed: 500/],
])('%s', async (_, advisories, code, says) => {
  const audited = await auditWith(advisories);
  expect(audited).toEqual({ code, output: expect.stringMatching(says) });
});
