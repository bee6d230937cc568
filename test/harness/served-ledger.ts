// A ledger behind the real API, for anything that reaches it over HTTP alone.
import { createApp } from '../../api/app.ts';
import { listen } from '../../api/server.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { freshLedger } from './ledger.ts';
import type { TestLedger } from './ledger.ts';

export type ServedLedger = AsyncDisposable & {
  readonly t: TestLedger;
  readonly url: string;
  readonly port: number;
  /** A key of the store's worker. */
  workerKey(store: string): Promise<string>;
  /** The API goes away, as for a restart, and comes back at the same port. */
  stopApi(): Promise<void>;
  startApi(): Promise<void>;
};

const silent = { warn: () => undefined, error: () => undefined };

/** `instead`: what answers in the ledger's place. */
export async function serveLedger(
  instead: Partial<Ledger> = {},
  { defaultRegion, declared }: Pick<Parameters<typeof createApp>[0], 'defaultRegion' | 'declared'> = {},
): Promise<ServedLedger> {
  const t = await freshLedger();
  const handler = () =>
    createApp({
      ledger: { ...t.ledger, ...instead },
      log: silent,
      defaultRegion,
      declared,
      opsOnSameListener: true,
    }).handler;
  let listening = await listen(handler(), { host: '127.0.0.1', port: 0 });
  const { url, port } = listening;
  return {
    t,
    url,
    port,
    workerKey: async (store) => {
      const scopes = ['acknowledgements:write'];
      const fields = { client: `worker of ${store}`, scopes, store, expiresAt: undefined, caller: undefined };
      return (await t.ledger.createKey(fields)).token;
    },
    stopApi: () => listening.close(),
    startApi: async () => {
      listening = await listen(handler(), { host: '127.0.0.1', port });
    },
    [Symbol.asyncDispose]: async () => {
      await listening.close();
      await t[Symbol.asyncDispose]();
    },
  };
}
