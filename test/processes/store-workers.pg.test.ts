import { expect, jest, test } from '@jest/globals';
import type { Worker } from '../../consumers/worker.ts';
import type { Pool } from '../../ledger/database.ts';
import { changeStore } from '../../ledger/stores.ts';
import { startStoreWorkers } from '../../processes/store-workers.ts';
import type { StoreWorkers } from '../../processes/store-workers.ts';
import type { ChangeListener, ChangeSource } from '../../stream/change-source.ts';
import { eventually, SOON_MS } from '../harness/eventually.ts';
import { freshLedger, report } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

/** A process of the API as far as its workers go: what they were told, by store, oldest first. */
class Api {
  readonly told = new Map<string, string[]>();
  readonly logged: string[] = [];
  listener!: ChangeListener;
  isDisposed = false;
  readonly workers: StoreWorkers;

  constructor(pool: Pool, holder: string, stores: readonly string[], stanza?: string) {
    const source: ChangeSource = {
      start: (listener) => {
        this.listener = listener;
      },
      report: () => ({
        kind: 'pgoutput',
        status: 'ok',
        position: undefined,
        positionAgeSeconds: 0,
        parked: 0,
      }),
      [Symbol.asyncDispose]: () => {
        this.isDisposed = true;
        return Promise.resolve();
      },
    };
    const write = (_fields: object, message: string) => this.logged.push(message);
    this.workers = startStoreWorkers({
      stores: stores.map((name) => ({ name, stanza: Buffer.from(stanza ?? name) })),
      source,
      pool,
      holder,
      log: { debug: write, info: write, warn: write, error: write },
      start: (store) => this.#start(store),
    });
  }

  /** What its worker of a store was told since its last start; undefined: there is none. */
  toldTo(store: string): string[] | undefined {
    const told = this.told.get(store) ?? [];
    const since = told.slice(told.lastIndexOf('start') + 1);
    return told.length === 0 || since.includes('stop') ? undefined : since;
  }

  #start(store: string): Worker {
    const told = this.told.get(store) ?? [];
    this.told.set(store, told);
    const tell = (what: string): void => void told.push(what);
    const answer = (what: string): Promise<void> => Promise.resolve(tell(what));
    tell('start');
    return {
      offer: () => answer('offer'),
      live: () => tell('live'),
      down: () => tell('down'),
      stop: () => answer('stop'),
    };
  }
}

async function ledgerOf(...stores: string[]): Promise<TestLedger> {
  const t = await freshLedger();
  await t.register(...stores.map((name) => ({ name })));
  return t;
}

test('of several processes one carries each store; when it stops the other follows at once', async () => {
  await using t = await ledgerOf('crm', 'mail');
  const apis = [new Api(t.pool, 'one', ['crm', 'mail']), new Api(t.pool, 'two', ['mail', 'crm'])] as const;
  const carriers = (store: string) => apis.filter((api) => api.toldTo(store) !== undefined);
  await eventually(() => expect(['crm', 'mail'].map((store) => carriers(store).length)).toEqual([1, 1]));
  const [first] = carriers('crm');
  const other = apis.find((api) => api !== first)!;
  await first!.workers.stop();
  // The other need not wait for its leases to end, and looks every second.
  const kept = await t.pool.query('select from stores where lease_holder = $1', [
    first === apis[0] ? 'one' : 'two',
  ]);
  expect(kept.rowCount).toBe(0);
  await eventually(() => expect(carriers('crm')).toEqual([other]), SOON_MS);
  expect(first).toMatchObject({ isDisposed: true });
  await other.workers.stop();
  const { rows } = await t.pool.query('select lease_holder from stores');
  expect(rows).toEqual([{ lease_holder: null }, { lease_holder: null }]);
});

// While a new version of the file is rolled out, the process with the old one would fill the store as it was.
test('a process whose configuration of a store is not the latest gives it up to one that has that', async () => {
  await using t = await ledgerOf('crm', 'mail');
  const old = new Api(t.pool, 'one', ['crm', 'mail']);
  await eventually(() => expect([old.toldTo('crm'), old.toldTo('mail')]).toEqual([[], []]));
  await t.register({ name: 'crm', stanza: Buffer.from('moved') });
  await eventually(() => expect(old.toldTo('crm')).toBeUndefined());
  expect(old.toldTo('mail')).toEqual([]);
  const latest = new Api(t.pool, 'two', ['crm'], 'moved');
  await eventually(() => expect(latest.toldTo('crm')).toEqual([]));
  expect(old.logged).toContain(
    'paused, retired, taken over by another worker, or configured differently since',
  );
  await Promise.all([old.workers.stop(), latest.workers.stop()]);
});

test('a process that dies is followed when its leases end', async () => {
  await using t = await ledgerOf('crm');
  const ask = t.pool.query.bind(t.pool);
  const first = new Api(t.pool, 'one', ['crm']);
  await eventually(() => expect(first.toldTo('crm')).toEqual([]));
  const second = new Api(t.pool, 'two', ['crm']);
  // Dead to the database, but alive to itself.
  const dead = jest
    .spyOn(t.pool, 'query')
    .mockImplementation(((query: { values: unknown[] }) =>
      query.values.includes('one') ? Promise.reject(new Error('dead')) : ask(query as never)) as never);
  await ask('update stores set lease_until = clock_timestamp()');
  await eventually(() => expect(second.toldTo('crm')).toEqual([]));
  // A worker that is told nothing goes on: if two apply the same thing that is harmless, if none does it is not.
  expect(first.toldTo('crm')).toEqual([]);
  dead.mockRestore();
  await eventually(() => expect(first.toldTo('crm')).toBeUndefined());
  expect(first.logged.filter((line) => line.startsWith('worker could not be checked'))).toHaveLength(1);
  await Promise.all([first.workers.stop(), second.workers.stop()]);
});

test('a store that is paused has no worker until it is resumed, and the others keep theirs', async () => {
  await using t = await ledgerOf('crm', 'mail');
  const api = new Api(t.pool, 'one', ['crm', 'mail']);
  api.listener.live();
  await eventually(() => expect([api.toldTo('crm'), api.toldTo('mail')]).toEqual([['live'], ['live']]));
  await changeStore(t.pool, 'crm', 'paused', { reason: 'test' }, undefined);
  await eventually(() => expect(api.toldTo('crm')).toBeUndefined());
  await api.listener.decisions([]);
  expect(api.toldTo('mail')).toEqual(['live', 'offer']);
  await changeStore(t.pool, 'crm', 'resumed', {}, undefined);
  // It hears how the stream stands, even if nothing has changed.
  await eventually(() => expect(api.toldTo('crm')).toEqual(['live']));
  api.listener.down('test');
  expect(api.toldTo('crm')).toEqual(['live', 'down']);
  await api.workers.stop();
});

test('a worker elsewhere that holds the lease is left alone', async () => {
  await using t = await ledgerOf('crm');
  await t.ledger.acknowledge('crm', report([]));
  const asked = jest.spyOn(t.pool, 'query');
  const api = new Api(t.pool, 'one', ['crm']);
  const renew = "update stores set lease_until = clock_timestamp() + interval '5 seconds'";
  await eventually(async () => {
    await t.pool.query(renew);
    const calls = asked.mock.calls.filter(([query]) => (query as unknown) !== renew);
    expect(calls.length).toBeGreaterThan(2);
  });
  expect(api.toldTo('crm')).toBeUndefined();
  await t.pool.query('update stores set lease_until = clock_timestamp()');
  await eventually(() => expect(api.toldTo('crm')).toEqual([]));
  await api.workers.stop();
});

// Each pause kept the function that ends it, on top of every earlier one: memory grew, and after some hours stopping overflowed the
// stack.
test('after hours of work a process stops as it does after a second', async () => {
  jest.useFakeTimers();
  try {
    const pool = { query: () => Promise.resolve({ rowCount: 1 }) } as unknown as Pool;
    const api = new Api(pool, 'one', ['crm']);
    await jest.advanceTimersByTimeAsync(30_000_000);
    await api.workers.stop();
    expect(api.told.get('crm')).toEqual(['start', 'stop']);
    expect(jest.getTimerCount()).toBe(0);
  } finally {
    jest.useRealTimers();
  }
});
