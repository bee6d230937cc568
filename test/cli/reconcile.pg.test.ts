// `abide reconcile` of a store that was down waited for ever without a word, both in a pipe and on a terminal.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';
import { startHttpStore } from '../harness/http-store.ts';

const SECRET = 'whsec_c2VjcmV0IG9mIHRoaXMgdGVzdA==';

test('a pass that does not move says what it waits for, and is left by Ctrl-C', async () => {
  await using store = await startHttpStore(SECRET);
  await using abide = await startAbide({
    config: `stores:\n  mail: { connector: http, url: '${store.url}', allow_private: true, secret: ${SECRET}, scopes: [email] }\n`,
  });
  const optOut = (email: string, headers = {}) =>
    createSend(abide.url)('POST', '/v1/opt-outs', {
      key: abide.key,
      headers,
      body: { subject: { email } },
    });
  const { json } = await optOut('ada@example.com', WHEN_COMPLETE);
  expect(json).toMatchObject({ propagation: { state: 'complete' } });
  await store[Symbol.asyncDispose]();

  const { child, ended, output, stdout } = spawnAbide(['reconcile', '--store', 'mail'], {
    ABIDE_URL: abide.url,
    ABIDE_DATA: abide.dataFolder,
  });
  const says = (reason: RegExp) =>
    eventually(() =>
      expect(output()).toMatch(
        new RegExp(`^nothing moves: waiting for mail\\. The lag says ${reason.source};`, 'm'),
      ),
    );
  // Nothing is due to the store, so only the pass notices that it is away.
  await says(/ok, STORE_UNREACHABLE/);
  await optOut('grace@example.com');
  await says(/\w+, STORE_UNREACHABLE/);
  child.kill('SIGINT');
  await ended;
  expect([child.signalCode, stdout()]).toEqual(['SIGINT', '']);
});

test.each([
  [0, 'all of it is held again'],
  [
    3,
    'all of it is held again, unless somebody is no longer there: see `abide quarantine list --kind absent`',
  ],
])(
  'what a pass found is not called held again by a lag of before its end, nor of whom is absent (%i)',
  async (absent, says) => {
    const at = (second: number): string => `2026-11-24T09:00:0${second}.000Z`;
    const pass = {
      id: 7,
      started_at: at(1),
      finished_at: at(2),
      compared: 14,
      missing: 14,
      older: 0,
      resurrected: 0,
      ahead: 0,
    };
    const lags = [
      { as_of: at(1), stores: [{ store: 'crm', drift: 0 }] },
      { as_of: at(3), stores: [{ store: 'crm', drift: 14 }] },
      { as_of: at(4), stores: [{ store: 'crm', drift: 0, absent }] },
    ];
    const api = createServer((request, response) => {
      const isLag = request.url!.startsWith('/v1/propagation-lag');
      const answer = isLag
        ? { status: 'ok', uncovered: [], sources: [], ...lags.shift() }
        : { store: 'crm', ...(request.method === 'POST' ? { id: 7 } : { passes: [pass] }) };
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    }).listen(0, '127.0.0.1');
    try {
      await once(api, 'listening');
      const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
      const env = { ABIDE_URL: url, ABIDE_KEY: 'abide_0_0' };
      const { stdout } = await runAbide(['reconcile', '--store', 'crm'], env);
      expect([stdout.trim().split('\n').at(-1), lags]).toEqual([says, []]);
    } finally {
      api.close();
    }
  },
);
