import { expect, test } from '@jest/globals';
import { createHttpLedgerAccess } from '../../consumers/http-ledger-access.ts';
import { createHttpSource } from '../../stream/http-source.ts';
import { describeChangeSource } from '../conformance/change-source.ts';
import type { SourcePlace } from '../conformance/change-source.ts';
import { eventually } from '../harness/eventually.ts';
import { report } from '../harness/ledger.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

async function open(): Promise<SourcePlace> {
  const stack = new AsyncDisposableStack();
  const api = stack.use(await serveLedger());
  // A kind of subject that this worker does not know yet is due as well.
  await api.t.register({ name: 'crm', accepts: ['email', 'fax' as never] });
  const of = report([]);
  await api.t.ledger.acknowledge('crm', of);
  const line = stack.use(await startTcpProxy({ host: '127.0.0.1', port: api.port }));
  const ledger = stack.use(
    createHttpLedgerAccess({
      url: `http://127.0.0.1:${line.port}`,
      key: await api.workerKey('crm'),
      store: 'crm',
      workerId: of.worker.id,
    }),
  );
  const source = stack.use(createHttpSource({ feed: (ask) => ledger.outstanding(ask) }));
  return {
    source,
    databaseUrl: api.t.db.superuserUrl,
    line,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

describeChangeSource('http', { open, heldMax: 2_000, waits: true });

test('of an API that does not answer it says soon that it is down: what did not come is no loss of the stream', async () => {
  const said: string[] = [];
  let asked = 0;
  const nothing = { decisions: [], next: undefined };
  await using source = createHttpSource({
    silentMsMax: 50,
    feed: ({ signal }) => {
      asked += 1;
      // The first look and the one after it are answered; from then on the line is half-open.
      if (asked <= 2) return Promise.resolve(nothing);
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))));
    },
  });
  source.start({
    decisions: () => Promise.resolve(),
    live: () => said.push('live'),
    down: () => said.push('down'),
  });
  await eventually(() => expect(said).toEqual(['live', 'down']));
  expect(source.report().status).toBe('down');
});
