import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';

// Found by reading: whoever called it took the failed wait for an unsubscription that had failed, and showed the person that.
test.each([
  ['no store covers it', 200, { object: 'propagation', state: 'uncovered' }],
  ['the key may not ask', 403, {}],
])("the example's opt-out is recorded, also if %s", async (_, status, propagation) => {
  const server = createServer((incoming, response) => {
    incoming.resume();
    const isAsked = incoming.method === 'GET';
    response
      .writeHead(isAsked ? status : 201, { 'content-type': 'application/json' })
      .end(JSON.stringify(isAsked ? propagation : { object: 'opt_out', id: 'one' }));
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  await using stack = new AsyncDisposableStack();
  stack.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const settings = {
    ABIDE_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ABIDE_KEY: 'abide_live_any',
  };
  Object.assign(process.env, settings);
  stack.defer(() => {
    for (const name of Object.keys(settings)) Reflect.deleteProperty(process.env, name);
  });
  const example: string = `../../docs/examples/client.ts?${status}`;
  const { unsubscribe } = (await import(example)) as {
    unsubscribe: (email: string, ticket: string) => Promise<boolean>;
  };
  expect(await unsubscribe('ada@example.com', 'ticket-4711')).toBe(false);
});
