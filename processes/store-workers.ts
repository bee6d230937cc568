// One worker per store, in this process, while this process holds the store's lease. So several API processes do not all drive, and
// a worker elsewhere that holds the lease is left alone.
import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../connectors/contract/connector.ts';
import type { StoreConfiguration } from '../config/configuration.ts';
import { makeKey } from '../connectors/contract/key-form.ts';
import type { WorkerStore } from '../consumers/reach-store.ts';
import type { Worker } from '../consumers/worker.ts';
import { releaseLease, renewLease } from '../ledger/stores.ts';
import type { Pool } from '../ledger/database.ts';
import type { ChangeListener, ChangeSource } from '../stream/change-source.ts';

const RENEW_MS = 1_000;

/** A store of the configuration as its worker wants it. */
export const toWorkerStore = (store: StoreConfiguration): WorkerStore => ({
  name: store.name,
  connector: store.connector,
  options: store.options,
  scopes: store.scopes,
  accepts: store.accepts,
  makeKey: (value) => makeKey(store.key, value),
  isPlain: store.key === 'plain',
});

export type StoreWorkers = { stop(): Promise<void> };

/**
 * Feeds one change source to every worker of this process. A worker that cannot keep up catches up from the ledger by
 * itself: no store waits for another.
 */
export function startStoreWorkers({
  stores,
  source,
  pool,
  holder,
  log,
  start,
}: {
  stores: readonly Pick<StoreConfiguration, 'name' | 'stanza'>[];
  source: ChangeSource;
  pool: Pool;
  holder: string;
  log: Log;
  start: (store: string) => Worker;
}): StoreWorkers {
  const workers = new Map<string, Worker>();
  let isLive = false;
  const stopping = new AbortController();

  const listener: ChangeListener = {
    decisions: (batch) => {
      for (const worker of workers.values()) void worker.offer(batch);
      return Promise.resolve();
    },
    live: () => {
      isLive = true;
      for (const worker of workers.values()) worker.live();
    },
    down: (reason) => {
      if (isLive)
        log.warn({ source: source.report().kind, reason }, 'stream is down: workers poll the ledger');
      isLive = false;
      for (const worker of workers.values()) worker.down();
    },
  };

  async function tend({ name, stanza }: (typeof stores)[number]): Promise<void> {
    const mine = await renewLease(pool, name, holder, stanza);
    const running = workers.get(name);
    if (mine && running === undefined) {
      const worker = start(name);
      workers.set(name, worker);
      if (isLive) worker.live();
    } else if (!mine && running !== undefined) {
      workers.delete(name);
      log.info(
        { store: name },
        'paused, retired, taken over by another worker, or configured differently since',
      );
      await running.stop();
      await releaseLease(pool, name, holder);
    }
  }

  async function tendAlways(store: (typeof stores)[number]): Promise<void> {
    const { name } = store;
    let failing = false;
    while (!stopping.signal.aborted) {
      try {
        await tend(store);
        failing = false;
      } catch (error) {
        if (!failing) log.warn({ store: name, error }, 'worker could not be checked, will try again');
        failing = true;
      }
      await delay(RENEW_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
    await workers.get(name)?.stop();
    await releaseLease(pool, name, holder).catch(() => undefined);
  }

  source.start(listener);
  const tended = stores.map(tendAlways);
  return {
    stop: async () => {
      stopping.abort();
      await source[Symbol.asyncDispose]();
      await Promise.all(tended);
    },
  };
}
