// Workers as they run: the real ledger behind the real API, a real PostgreSQL store. Faults that real ones do not show on
// demand are in worker.test.ts.
import { expect, test } from '@jest/globals';
import postgres from '../../connectors/postgres.ts';
import type { Connector, Item } from '../../connectors/contract/connector.ts';
import { createHttpLedgerAccess } from '../../consumers/http-ledger-access.ts';
import { startWorker } from '../../consumers/worker.ts';
import { refillStore } from '../../ledger/stores.ts';
import { quietLog } from '../../processes/log.ts';
import type { ChangeListener, ChangeSource } from '../../stream/change-source.ts';
import { createHttpSource } from '../../stream/http-source.ts';
import { createPgoutputSource } from '../../stream/pgoutput-source.ts';
import type { Decision } from '../../suppression/decision.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import {
  grant,
  outstandingOf,
  propagationIn,
  intent,
  read,
  render,
  report,
  verified,
} from '../harness/ledger.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import { FakeStore } from './fakes.ts';

const SCOPES = ['email', 'sms', 'push'];

type Running = {
  readonly given: Set<number>;
  /** How often it has read the ledger. */
  readonly pages: number;
  stop(): Promise<void>;
};

/** A ledger with store crm, which is a table in a database of its own; the test starts the workers. */
async function installation() {
  const stack = new AsyncDisposableStack();
  const api = stack.use(await serveLedger());
  const crm = stack.use(await emptyDatabase());
  await api.t.register({ name: 'crm' });
  const key = await api.workerKey('crm');

  /** `pass`: which decisions the stream delivers; `source`: another one than the API's long poll. */
  function start(
    id: string,
    {
      source: of = 'http',
      pass = () => true,
      connector = postgres,
    }: { source?: 'http' | 'pgoutput'; pass?: (one: Decision) => boolean; connector?: Connector } = {},
  ): Running {
    const given = new Set<number>();
    let pages = 0;
    const access = createHttpLedgerAccess({ url: api.url, key, store: 'crm', workerId: id });
    const ledger = {
      ...access,
      outstanding: async (ask: Parameters<typeof access.outstanding>[0]) => {
        const page = await access.outstanding(ask);
        pages += 1;
        for (const { seq } of page.decisions) given.add(seq);
        return page;
      },
    };
    const source: ChangeSource =
      of === 'http'
        ? createHttpSource({ feed: (ask) => ledger.outstanding(ask) })
        : createPgoutputSource({ url: api.t.db.urls.replication, publication: 'abide', log: quietLog });
    const worker = startWorker({
      store: {
        name: 'crm',
        connector,
        options: connector.options.parse({ url: crm.urls.owner }),
        scopes: new Map(SCOPES.map((scope) => [scope, undefined])),
        accepts: connector.accepts,
        makeKey: (value) => value,
        isPlain: true,
      },
      ledger,
      source,
      id,
      log: quietLog,
    });
    const listener: ChangeListener = {
      decisions: (batch) => {
        void worker.offer(batch.filter(pass));
        return Promise.resolve();
      },
      live: () => worker.live(),
      down: () => worker.down(),
    };
    source.start(listener);
    let stopped: Promise<void> | undefined;
    const stop = (): Promise<void> =>
      (stopped ??= (async () => {
        await source[Symbol.asyncDispose]();
        await worker.stop();
        await access[Symbol.asyncDispose]();
      })());
    stack.defer(stop);
    return {
      given,
      get pages() {
        return pages;
      },
      stop,
    };
  }

  return {
    api,
    ledger: api.t.ledger,
    pool: api.t.pool,
    start,
    optOut: async (who: string, scopes: readonly string[] = SCOPES) =>
      read(await api.t.ledger.record(intent(`${who}@example.com`, { scopes: scopes as never }), render)).id,
    expectVerified: (...ids: readonly string[]) =>
      eventually(async () => {
        const found = await Promise.all(ids.map((id) => propagationIn(api.t.ledger, id)));
        expect(found).toEqual(
          ids.map(() => expect.objectContaining({ state: 'complete', required: 1, verified: 1 })),
        );
      }),
    acknowledged: async () =>
      (
        await api.t.pool.query<{ seq: number; generation: number; worker: string; carried_by: string }>(
          "select seq, generation, worker, carried_by from acknowledgements where outcome <> 'superseded' order by seq",
        )
      ).rows,
    store: <Row extends object>(sql: string) =>
      withClient(crm.urls.owner, async (client) => (await client.query<Row>(sql)).rows),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test.each(['http', 'pgoutput'] as const)(
  'an opt-out goes into a real store and back, by %s: applied, read and acknowledged',
  async (source) => {
    await using t = await installation();
    t.start('one', { source });
    const before = await t.optOut('before');
    await t.expectVerified(before);
    await eventually(async () =>
      expect((await t.ledger.lag()).sources).toMatchObject([{ kind: source, status: 'ok' }]),
    );
    const after = await t.optOut('ada', ['email']);
    await t.expectVerified(after);
    expect(await t.store('select email, sms, push from suppressions order by key')).toEqual([
      { email: true, sms: null, push: null },
      { email: true, sms: true, push: true },
    ]);
    expect((await t.acknowledged()).at(-1)).toMatchObject({ worker: 'one', carried_by: 'stream' });
    await eventually(async () =>
      expect((await t.ledger.lag()).stores[0]).toMatchObject({
        status: 'ok',
        outstanding: 0,
        quarantined: 0,
      }),
    );
  },
);

test('a store that takes everything and keeps nothing is never verified: quarantined, with its clock running', async () => {
  await using t = await installation();
  t.start('one');
  await t.expectVerified(await t.optOut('ada'));
  await t.store(`
    create function forget() returns trigger language plpgsql as 'begin return null; end';
    create trigger forget before insert or update on suppressions for each row execute function forget();`);
  const id = await t.optOut('bob');
  await eventually(async () =>
    expect((await propagationIn(t.ledger, id))?.stores).toMatchObject([
      { state: 'quarantined', reason: 'NOT_HELD', attempts: 5, verifiedAt: undefined },
    ]),
  );
  expect((await t.ledger.lag()).stores[0]).toMatchObject({ outstanding: 1, quarantined: 1 });
  await t.store('drop trigger forget on suppressions');
  await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
  await t.expectVerified(id);
});

test('two workers of one store share no work; when the one dies the other takes over within seconds', async () => {
  await using t = await installation();
  const workers = [t.start('one'), t.start('two')] as const;
  await t.expectVerified(...(await Promise.all(['ada', 'bob', 'cyd'].map((who) => t.optOut(who)))));
  const [first] = await t.acknowledged();
  const [holder, other] = first!.worker === 'one' ? workers : workers.toReversed();
  expect((await t.acknowledged()).map(({ worker }) => worker)).toEqual(Array(3).fill(first!.worker));
  expect(other.given.size).toBe(0);
  // It says nothing when it dies, so its lease runs out.
  await holder.stop();
  const died = performance.now();
  await t.expectVerified(await t.optOut('dan'));
  expect(performance.now() - died).toBeLessThan(8_000);
  expect((await t.acknowledged()).at(-1)!.worker).not.toBe(first!.worker);
});

test('a decision that the stream loses is driven again, and counted where it shows', async () => {
  await using t = await installation();
  const one = t.start('one', { source: 'pgoutput', pass: ({ seq }) => seq !== 2 });
  await t.expectVerified(await t.optOut('ada'));
  await eventually(async () => expect((await t.ledger.lag()).sources).toMatchObject([{ status: 'ok' }]));
  // It is caught up once a reading that began after that has ended.
  const { pages } = one;
  await eventually(() => expect(one.pages).toBeGreaterThanOrEqual(pages + 2));
  // The ledger may also have driven what is older than the stream.
  const before = (await t.ledger.lag()).sources[0]!.redriven;
  const ids = [await t.optOut('lost'), await t.optOut('cyd')];
  await t.expectVerified(...ids);
  expect((await t.acknowledged()).map(({ seq, carried_by: by }) => [seq, by]).slice(1)).toEqual([
    [2, 'redrive'],
    [3, 'stream'],
  ]);
  await eventually(async () =>
    expect((await t.ledger.lag()).sources).toMatchObject([{ kind: 'pgoutput', redriven: before + 1 }]),
  );
});

test('an API that goes away and comes back has lost nothing, and its workers come back by themselves', async () => {
  await using t = await installation();
  t.start('one');
  await t.expectVerified(await t.optOut('ada'));
  await t.api.stopApi();
  const ids = [await t.optOut('bob'), await t.optOut('cyd')];
  await t.api.startApi();
  await t.expectVerified(...ids);
});

test('what was there before a store, and before its new generation, is filled in', async () => {
  await using t = await installation();
  const ids = await Promise.all(['ada', 'bob', 'cyd'].map((who) => t.optOut(who)));
  t.start('one');
  await t.expectVerified(...ids);
  // What comes after the mark stays live.
  await eventually(async () =>
    expect((await t.ledger.lag()).stores[0]).toMatchObject({ verified_through: 3 }),
  );
  await t.store('truncate suppressions');
  await refillStore(t.pool, 'crm', 'wiped', undefined);
  await t.ledger.refresh();
  await eventually(async () => expect(await t.store('select from suppressions')).toHaveLength(3));
  await t.expectVerified(...ids);
  const refilled = (await t.acknowledged()).filter(({ generation }) => generation === 2);
  expect(refilled.map(({ carried_by: by }) => by)).toEqual(Array(3).fill('backfill'));
  await eventually(async () => expect((await t.ledger.lag()).stores[0]).toMatchObject({ backfill: null }));
});

test('stopped in the middle of its work it has lost nothing: whoever is next does the rest', async () => {
  await using t = await installation();
  const one = t.start('one');
  await t.expectVerified(await t.optOut('first'));
  const recording = Promise.all(Array.from({ length: 200 }, (_, n) => t.optOut(`person-${n}`)));
  await eventually(async () => expect((await t.acknowledged()).length).toBeGreaterThan(20));
  await one.stop();
  const ids = await recording;
  t.start('one');
  await t.expectVerified(...ids);
  expect(await t.store('select from suppressions')).toHaveLength(201);
});

// Nothing was outstanding, nothing was parked, and the person was mailed.
test('an opt-out that another worker had acknowledged while a lift of before was on its way is outstanding until the store holds it', async () => {
  await using t = await installation();
  await t.api.t.register({ name: 'crm', evidence: 'applied' });
  const store = new FakeStore();
  let lifted: Promise<string> | undefined;
  let isFull = true;
  const overtake = async (): Promise<string> => {
    const id = await t.optOut('ada');
    const newer = (await outstandingOf(t.ledger, 'crm')).at(-1)!;
    await t.ledger.acknowledge('crm', report([verified(newer, { outcome: 'applied' })]));
    expect((await propagationIn(t.ledger, id))?.state).toBe('complete');
    return id;
  };
  store.onApply = async ([item]: readonly Item[]) => {
    if (Object.keys(item!.granted).length > 0) {
      await (lifted ??= overtake());
      return undefined;
    }
    return lifted !== undefined && isFull ? [{ kind: 'refused', code: 'LIST_IS_FULL' }] : undefined;
  };
  t.start('one', { connector: store.connector({ versions: 'none', evidence: 'applied' }) });
  await t.optOut('ada');
  await eventually(async () => expect(await t.acknowledged()).toHaveLength(1));
  const { rows } = await t.pool.query<{ id: string }>('select id from subjects');
  await grant(t.api.t, rows[0]!.id, ['email']);
  await eventually(() => expect(lifted).toBeDefined());
  const id = await lifted!;

  await eventually(async () =>
    expect(await propagationIn(t.ledger, id)).toMatchObject({
      state: 'pending',
      stores: [{ state: 'quarantined', reason: 'LIST_IS_FULL' }],
    }),
  );
  expect(store.suppressedOf('ada')).not.toContain('email');

  isFull = false;
  await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
  await eventually(async () => expect((await propagationIn(t.ledger, id))?.state).toBe('complete'));
  expect(store.suppressedOf('ada')).toEqual(['email', 'push', 'sms']);
});
