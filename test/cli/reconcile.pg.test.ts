// `abide reconcile` of a store that was down waited for ever without a word, both in a pipe and on a terminal.
import { expect, test } from '@jest/globals';
import { spawnAbide, startAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend } from '../harness/http.ts';
import { startHttpStore } from '../harness/http-store.ts';

const SECRET = 'whsec_c2VjcmV0IG9mIHRoaXMgdGVzdA==';

test('a pass that does not move says what it waits for, and is left by Ctrl-C', async () => {
  await using store = await startHttpStore(SECRET);
  await using abide = await startAbide({
    config: `stores:\n  mail: { connector: http, url: '${store.url}', allow_private: true, secret: ${SECRET}, scopes: [email] }\n`,
  });
  const optOut = (email: string, wait: number) =>
    createSend(abide.url)('POST', '/v1/opt-outs', {
      key: abide.key,
      headers: { prefer: `wait=${wait}` },
      body: { subject: { email } },
    });
  const { json } = await optOut('ada@example.com', 10);
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
  await optOut('grace@example.com', 0);
  await says(/\w+, STORE_UNREACHABLE/);
  child.kill('SIGINT');
  await ended;
  expect([child.signalCode, stdout()]).toEqual(['SIGINT', '']);
});
