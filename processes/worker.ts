// A worker on its own: it reaches its store and, over HTTP alone, the API. Its one secret of ours is its API key.
import { hostname } from 'node:os';
import { createHttpLedgerAccess } from '../consumers/http-ledger-access.ts';
import { startWorker } from '../consumers/worker.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { createHttpSource } from '../stream/http-source.ts';
import { AbideError } from '../suppression/errors.ts';
import { loadConfiguration } from '../config/configuration.ts';
import { loadConnector } from './load-connector.ts';
import { toWorkerStore } from './store-workers.ts';

export async function runWorker({
  store: name,
  apiUrl,
  apiKey,
  configPath,
  env,
  log,
}: {
  store: string;
  apiUrl: string;
  apiKey: string;
  configPath: string | undefined;
  env: Readonly<Record<string, string | undefined>>;
  log: Log;
}): Promise<{ stop(): Promise<void> }> {
  const configuration = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    embeddedStoreUrl: () => {
      throw new AbideError(
        'CONFIG_INVALID',
        'A worker needs an abide.yaml that names its store: --config abide.yaml',
      );
    },
    only: name,
  });
  const store = configuration.stores.find((one) => one.name === name);
  if (store === undefined) {
    throw new AbideError('CONFIG_INVALID', `The configuration has no store ${name}.`);
  }
  const id = `${hostname()}-${process.pid}`;
  const ledger = createHttpLedgerAccess({ url: apiUrl, key: apiKey, store: name, workerId: id });
  const source = createHttpSource({ feed: (ask) => ledger.outstanding(ask) });
  const worker = startWorker({ store: toWorkerStore(store), ledger, source, id, log });
  source.start({
    // Not waited for: what is under way must not hold up what comes next.
    decisions: (batch) => {
      void worker.offer(batch);
      return Promise.resolve();
    },
    live: () => worker.live(),
    down: () => worker.down(),
  });
  return {
    stop: async () => {
      await source[Symbol.asyncDispose]();
      await worker.stop();
      await ledger[Symbol.asyncDispose]();
    },
  };
}
