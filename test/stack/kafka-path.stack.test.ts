// Abide over the real Kafka, Connect with Debezium, registry and PostgreSQL, as `npm run stack` runs them. This is one file, since
// every fault here is a fault for all of them.
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import avro from 'avsc';
import { AssignerProtocol } from 'kafkajs';
import type { Admin, Kafka } from 'kafkajs';
import pg from 'pg';
import { request } from 'undici';
import { createConnectApi, readConnector } from '../../debezium/connect-api.ts';
import { makeTopics } from '../../debezium/ensure-topics.ts';
import { DECISIONS_TOPIC, HEARTBEAT_TOPIC, PARKED_TOPIC, readTopicsOfConnect } from '../../debezium/files.ts';
import { createKey } from '../../ledger/api-keys.ts';
import { openPool } from '../../ledger/database.ts';
import { changeStore, syncStores } from '../../ledger/stores.ts';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { quietLog } from '../../processes/log.ts';
import type { ChangeSource } from '../../stream/change-source.ts';
import type { FetchSchema } from '../../stream/decision-record.ts';
import { createKafka } from '../../stream/kafka-client.ts';
import { createKafkaSource, createSchemaFetch, groupOf } from '../../stream/kafka-source.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { describeChangeSource } from '../conformance/change-source.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { store as storeOf } from '../harness/ledger.ts';
import { findStackOfTheRun } from '../harness/stack-of-the-run.ts';
import type { RunningStack } from '../harness/stack-of-the-run.ts';
import { makeKafkaLedger } from './kafka-source.ts';
import type { KafkaLedger } from './kafka-source.ts';

/** A JVM takes its time when it starts beside everything else. */
const STREAMING_MS_MAX = 120_000;

let stack: RunningStack;
let people = 0;
const somebody = (): string => `person.${process.pid}.${(people += 1)}@example.com`;

beforeAll(async () => {
  stack = await findStackOfTheRun();
  await stack.admin.connect();
});

describe('the conformance of change sources', () => {
  let ledger: KafkaLedger;
  beforeAll(async () => {
    ledger = await makeKafkaLedger(stack);
  });
  afterAll(async () => {
    await ledger[Symbol.asyncDispose]();
  });

  describeChangeSource('kafka', { open: () => ledger.open(), heldMax: 6_000, waits: true });
});
afterAll(async () => {
  await stack.admin.disconnect();
});

/** How the decision of an opt-out came to the store, once it is acknowledged. */
const carriedBy = (id: string): Promise<string> =>
  eventually(async () => {
    const [row] = await stack.query<{ carried_by: string }>(
      'select a.carried_by from acknowledgements a join decisions d using (seq) where d.opt_out_id = $1',
      [id],
    );
    if (row === undefined) throw new Error('not acknowledged');
    return row.carried_by;
  });

/** Waits until an opt-out arrives by the stream again. */
const untilStreaming = (): Promise<void> =>
  eventually(async () => {
    const id = await stack.optOut(somebody());
    if (id === undefined || (await carriedBy(id)) !== 'stream') throw new Error('not by the stream yet');
    await delay(200);
  }, STREAMING_MS_MAX);

const outstandingOf = async (ids: readonly string[]): Promise<number> => {
  const [row] = await stack.query<{ count: number }>(
    `select count(*)::int as count from decisions d
     where d.opt_out_id = any($1) and not exists (select from acknowledgements a where a.seq = d.seq)`,
    [ids],
  );
  return row!.count;
};

type Oldest = { seq: string; recorded_at: Date } | undefined;
const OLDEST = `select d.seq, d.recorded_at from decisions d
  where not exists (select from acknowledgements a where a.seq = d.seq) order by d.seq limit 1`;

/** Compares the lag endpoint with the tables all along; gives what it said wrongly. A missing answer says nothing. */
function watchLag(signal: AbortSignal): Promise<readonly string[]> {
  const lies: string[] = [];
  const look = async (): Promise<void> => {
    const [before] = (await stack.query(OLDEST)) as Oldest[];
    const said = await stack.lag();
    const [after] = (await stack.query(OLDEST)) as Oldest[];
    if (before === undefined || before.seq !== after?.seq || said.stores === undefined) return;
    const age = (Date.parse(said.as_of) - before.recorded_at.getTime()) / 1000;
    const [store] = said.stores;
    // Anything older than the answer itself must be in it; the parts of an answer are read within moments of each other.
    if (age > 0.5 && (store!.oldest_outstanding_seconds ?? 0) < age - 0.5)
      lies.push(`said ${store!.oldest_outstanding_seconds} s, was ${age} s`);
    if (age > 11 && store!.status === 'ok') lies.push(`said ok at ${age} s`);
  };
  return (async () => {
    while (!signal.aborted) {
      await look().catch(() => undefined);
      await delay(100);
    }
    return lies;
  })();
}

/** Opts out all along while `fault` happens and until the stream carries again; then nothing that was answered is missing. */
async function throughIt(fault: () => Promise<void>): Promise<void> {
  const ending = new AbortController();
  const answered: string[] = [];
  const clients = Array.from({ length: 2 }, async () => {
    while (!ending.signal.aborted) {
      const id = await stack.optOut(somebody()).catch(() => undefined);
      if (id === undefined) await delay(100);
      else answered.push(id);
      await delay(20);
    }
  });
  const lag = watchLag(ending.signal);
  try {
    await eventually(() => expect(answered.length).toBeGreaterThan(20));
    await fault();
    await untilStreaming();
  } finally {
    ending.abort();
    await Promise.all(clients);
  }
  await eventually(async () => expect(await outstandingOf(answered)).toBe(0));
  expect(await lag).toEqual([]);
  await eventually(async () => {
    const { status, sources } = await stack.lag();
    expect({ status, source: sources[0] }).toMatchObject({
      status: 'ok',
      source: { kind: 'kafka', slot: 'active', task: 'running' },
    });
  });
}

const kill = async (program: string): Promise<void> => {
  process.kill(await stack.pidOf(program), 'SIGKILL');
};

const connect = async (method: 'GET' | 'DELETE', path: string): Promise<unknown> => {
  const { body } = await request(`http://127.0.0.1:${stack.ports.connect}/${path}`, { method });
  const text = await body.text();
  return text === '' ? undefined : JSON.parse(text);
};

describe('the stream', () => {
  test('an opt-out arrives in the store by the stream, verified', async () => {
    await untilStreaming();
    const id = (await stack.optOut(somebody()))!;

    expect(await carriedBy(id)).toBe('stream');
  });

  test('what Connect shows of the connector holds no secret', async () => {
    const config = (await connect('GET', 'connectors/abide/config')) as Record<string, string>;

    expect(config['database.password']).toBe('${env:ABIDE_REPLICATION_PASSWORD}');
  });

  test('the topic holds no address in the clear, and the key is the id of the subject', async () => {
    const email = somebody();
    const id = (await stack.optOut(email))!;
    const [{ subject_id: subjectId } = { subject_id: '' }] = await stack.query<{ subject_id: string }>(
      'select subject_id from decisions where opt_out_id = $1',
      [id],
    );
    const consumer = stack.kafka.consumer({ groupId: `test-raw-${process.pid}`, maxWaitTimeInMs: 100 });
    const seen: { key: string; raw: string }[] = [];
    await consumer.connect();
    try {
      await consumer.subscribe({ topic: DECISIONS_TOPIC, fromBeginning: true });
      await consumer.run({
        eachMessage: ({ message }) => {
          const headers = JSON.stringify(message.headers);
          seen.push({ key: String(message.key), raw: `${message.value!.toString('latin1')}${headers}` });
          return Promise.resolve();
        },
      });
      await eventually(() => expect(seen.map(({ key }) => key)).toContain(subjectId));
    } finally {
      await consumer.disconnect();
    }

    expect(seen.filter(({ raw }) => /@example|example\.com|person\./i.test(raw))).toEqual([]);
    // Besides decisions there is what other tests put there that cannot be read.
    const decisions = seen.filter(({ raw }) => raw.startsWith('\0'));
    expect(decisions.filter(({ key }) => !/^[0-9a-f-]{36}$/.test(key))).toEqual([]);
  });

  const silent = (): void => undefined;
  const address = () => ({ brokers: [`127.0.0.1:${stack.ports.broker}`] });

  // On every connection the library set itself a timer of a millisecond, for ever.
  test('a client of whom nothing is asked sleeps', async () => {
    const timer = jest.spyOn(globalThis, 'setTimeout');
    const admin = createKafka({ address: address(), clientId: 'abide-asleep', log: quietLog }).admin();
    try {
      await admin.connect();
      await admin.describeCluster();
      expect(timer.mock.calls.map(([, ms]) => ms).filter((ms) => ms !== undefined && ms < 0)).toEqual([]);
    } finally {
      timer.mockRestore();
      await admin.disconnect();
    }
  });

  const fetchOfTheRun = (): FetchSchema =>
    createSchemaFetch(`http://127.0.0.1:${stack.ports.registry}/apis/ccompat/v7`);
  const sourceOf = (
    kafka: Kafka,
    store: string,
    fetchSchema: FetchSchema,
    topic = DECISIONS_TOPIC,
  ): ChangeSource =>
    createKafkaSource({
      kafka,
      fetchSchema,
      store,
      topic,
      pulseTopic: HEARTBEAT_TOPIC,
      parkedTopic: PARKED_TOPIC,
      log: quietLog,
    });

  // It said that the registry was away for as long as the process lived.
  test('a member that waits for a schema while another joins delivers again once there is one', async () => {
    await stack.optOut(somebody());
    const kafka = createKafka({ address: address(), clientId: 'abide-waits', log: quietLog });
    const fetchSchema = fetchOfTheRun();
    let joins = 0;
    const makeConsumer = kafka.consumer.bind(kafka);
    kafka.consumer = (config) => {
      const consumer = makeConsumer(config);
      consumer.on('consumer.group_join', () => (joins += 1));
      return consumer;
    };
    const store = randomUUID();
    const listener = { decisions: () => Promise.resolve(), live: silent };
    await using stopping = new AsyncDisposableStack();
    const waits = stopping.use(
      sourceOf(kafka, store, (id) =>
        joins > 1 ? fetchSchema(id) : Promise.reject(new Error('the registry does not answer')),
      ),
    );
    const reasons: string[] = [];
    waits.start({ ...listener, down: (reason) => void reasons.push(reason) });
    await eventually(() => expect(reasons).toContain('registry'));

    const other = stopping.use(
      sourceOf(
        createKafka({ address: address(), clientId: 'abide-joins', log: quietLog }),
        store,
        fetchSchema,
      ),
    );
    other.start({ ...listener, down: silent });
    await eventually(() => expect(joins).toBeGreaterThan(1));
    await eventually(() => expect(waits.report().status).toBe('ok'));
  });

  const ANSWERS_AFTER_MS = 40;
  test.each([
    ['takes to answer', () => delay(ANSWERS_AFTER_MS)],
    ['has not answered', () => new Promise<void>(() => undefined)],
  ])('while records come, fetches are the further apart the longer the worker %s', async (_, answer) => {
    await untilStreaming();
    const kafka = createKafka({ address: address(), clientId: 'abide-apart', log: quietLog });
    const fetches: { readonly endedAt: number; brought: boolean; nextAt: number | undefined }[] = [];
    const makeConsumer = kafka.consumer.bind(kafka);
    kafka.consumer = (config) => {
      const consumer = makeConsumer(config);
      consumer.on('consumer.fetch', () => {
        fetches.push({ endedAt: performance.now(), brought: false, nextAt: undefined });
      });
      consumer.on('consumer.fetch_start', () => {
        const last = fetches.at(-1);
        if (last !== undefined) last.nextAt = performance.now();
      });
      return consumer;
    };
    const arrived = new Set<string | undefined>();
    let handedAt = Infinity;
    const source = sourceOf(kafka, randomUUID(), fetchOfTheRun());
    try {
      source.start({
        decisions: async (batch) => {
          fetches.at(-1)!.brought = true;
          for (const { optOutId } of batch) arrived.add(optOutId);
          handedAt = Math.min(handedAt, performance.now());
          await answer();
        },
        live: silent,
        down: silent,
      });
      for (let n = 0; n < 30; n += 1) {
        const id = await stack.optOut(somebody());
        await eventually(() => expect(arrived).toContain(id));
      }
    } finally {
      await source[Symbol.asyncDispose]();
    }
    const apart = fetches
      .filter(
        ({ brought, endedAt, nextAt }) =>
          brought && endedAt > handedAt + ANSWERS_AFTER_MS && nextAt !== undefined,
      )
      .map(({ endedAt, nextAt }) => nextAt! - endedAt);

    expect(apart.length).toBeGreaterThan(5);
    // A timer may fire a millisecond early.
    expect(Math.min(...apart)).toBeGreaterThan(ANSWERS_AFTER_MS - 2);
  });

  // The client gave up for good, and so did each of its successors, for as long as the topic kept one such batch.
  test('however a batch is compressed, by its producer or by the broker, it is read', async () => {
    const topics = ['gzip', 'snappy', 'lz4', 'zstd'].map((type) => ({
      topic: `${type}-${randomUUID()}`,
      configEntries: [{ name: 'compression.type', value: type }],
    }));
    const names = topics.map(({ topic }) => topic);
    // Literals, short and long matches near and far, and more than one block.
    const values = [
      randomBytes(90_000),
      Buffer.alloc(200_000, 'suppressed by herself '),
      Buffer.from(Array.from({ length: 20_000 }, (_, n) => `person ${n % 700}, `).join('')),
      Buffer.from('few'),
    ];
    const client = createKafka({ address: address(), clientId: 'abide-compressed', log: quietLog });
    const consumer = client.consumer({ groupId: randomUUID(), maxWaitTimeInMs: 50 });
    const producer = client.producer();
    const read: string[] = [];
    await makeTopics(stack.admin, topics);
    try {
      await Promise.all([consumer.connect(), producer.connect()]);
      await producer.sendBatch({
        topicMessages: names.map((topic) => ({ topic, messages: values.map((value) => ({ value })) })),
      });
      await consumer.subscribe({ topics: names, fromBeginning: true });
      await consumer.run({
        eachMessage: ({ topic, message }) => {
          read.push(`${topic} ${values.findIndex((value) => value.equals(message.value!))}`);
          return Promise.resolve();
        },
      });
      await eventually(() => expect(read).toHaveLength(names.length * values.length));
    } finally {
      await Promise.all([consumer.disconnect(), producer.disconnect()]);
      await stack.admin.deleteTopics({ topics: names });
    }

    expect(read.toSorted()).toEqual(names.flatMap((name) => values.map((_, n) => `${name} ${n}`)).toSorted());
  });

  // The library's own wait failed then, after the topic was made.
  test('a topic is made once the broker that is asked has heard of it', async () => {
    const topic = `new-${randomUUID()}`;
    let looks = 0;
    const fetchTopicMetadata: Admin['fetchTopicMetadata'] = async () => {
      looks += 1;
      return looks === 1 ? { topics: [] } : await stack.admin.fetchTopicMetadata();
    };
    await makeTopics({ ...stack.admin, fetchTopicMetadata }, [{ topic, numPartitions: 3 }]);
    expect(looks).toBeGreaterThan(1);
    const { topics } = await stack.admin.fetchTopicMetadata({ topics: [topic] });
    expect(topics[0]!.partitions.map(({ leader }) => leader >= 0)).toEqual([true, true, true]);
    await stack.admin.deleteTopics({ topics: [topic] });
  });

  // After the last record stands the end of its transaction: the source said for ever that it was catching up. And it did not
  // report what it could not read: if the registry had lost its schemas, each opt-out was 5 s late and an alarm.
  test('a source that has read what was written in a transaction is at the end, and tells of what it could not read', async () => {
    const topic = `transaction-${randomUUID()}`;
    await makeTopics(stack.admin, [{ topic, numPartitions: 1 }]);
    const kafka = createKafka({ address: address(), clientId: 'abide-at-the-end', log: quietLog });
    const producer = kafka.producer({ transactionalId: topic, idempotent: true, maxInFlightRequests: 1 });
    const source = sourceOf(kafka, topic, fetchOfTheRun(), topic);
    let lives = 0;
    const live = (): void => void (lives += 1);
    const reasons: string[] = [];
    const down = (reason: string): void => void reasons.push(reason);
    try {
      await producer.connect();
      source.start({ decisions: () => Promise.resolve(), live, down });
      await eventually(() => expect(lives).toBeGreaterThan(0));
      const transaction = await producer.transaction();
      await transaction.send({ topic, messages: [{ value: 'no decision at all' }] });
      await transaction.commit();
      await eventually(() => expect(source.report()).toMatchObject({ parked: 1, status: 'down' }));
      const before = lives;
      await eventually(() => expect(lives).toBeGreaterThan(before));
      await eventually(() => expect(source.report()).toMatchObject({ parked: 1, status: 'ok' }));
      expect(reasons).toContain('unreadable');
    } finally {
      await Promise.all([source[Symbol.asyncDispose](), producer.disconnect()]);
      await stack.admin.deleteTopics({ topics: [topic] });
    }
  });

  // It was looked for after half a minute, and called lost after 5 s.
  const LESS_THAN_BEFORE_MS = 20_000;
  test('what is written to a partition that was added is read soon', async () => {
    const topic = `grows-${randomUUID()}`;
    await makeTopics(stack.admin, [{ topic, numPartitions: 1 }]);
    const kafka = createKafka({ address: address(), clientId: 'abide-grows', log: quietLog });
    const producer = kafka.producer();
    const source = sourceOf(kafka, topic, fetchOfTheRun(), topic);
    let lives = 0;
    const live = (): void => void (lives += 1);
    try {
      source.start({ decisions: () => Promise.resolve(), live, down: silent });
      await eventually(() => expect(lives).toBeGreaterThan(0));
      await stack.admin.createPartitions({ topicPartitions: [{ topic, count: 2 }] });
      await producer.connect();
      await eventually(() => producer.send({ topic, messages: [{ partition: 1, value: 'no decision' }] }));
      await eventually(() => expect(source.report().parked).toBeGreaterThan(0), LESS_THAN_BEFORE_MS);
    } finally {
      await Promise.all([source[Symbol.asyncDispose](), producer.disconnect()]);
      await stack.admin.deleteTopics({ topics: [topic] });
    }
  });

  test('a record that cannot be read is parked with its bytes, counted, and holds nobody up', async () => {
    const producer = stack.kafka.producer();
    await producer.connect();
    const bytes = Buffer.from('no decision at all');
    const messages = Array.from({ length: 12 }, (_, partition) => ({ partition, key: null, value: bytes }));
    await producer.send({ topic: DECISIONS_TOPIC, messages });
    await producer.disconnect();

    await untilStreaming();
    await eventually(async () => {
      const offsets = await stack.admin.fetchTopicOffsets(PARKED_TOPIC);
      expect(Number(offsets[0]!.high)).toBeGreaterThanOrEqual(12);
    });
    await eventually(async () => {
      const [source] = (await stack.lag()).sources;
      expect(source).toMatchObject({ kind: 'kafka', parked: expect.any(Number) });
      expect(source!.parked).toBeGreaterThanOrEqual(12);
    });
  });
});

// Seen: whoever could write to the topic lifted anybody, in every store, and what a store then held was believed for ever.
describe('a record that somebody else writes to the topic, with her own sealed address in it,', () => {
  type Row = Record<string, unknown> & { seq: number; version: number; subject_id: string };
  type Kept = { version: string; email: boolean };
  let crm: pg.Client;
  beforeAll(async () => {
    const { superuserUrl } = (await findEmbeddedPostgres(stack.folder))!;
    crm = new pg.Client({
      connectionString: Object.assign(new URL(superuserUrl), { pathname: '/crm' }).href,
    });
    await crm.connect();
  });
  afterAll(async () => {
    await crm.end();
  });
  const kept = async (email: string): Promise<Kept | undefined> =>
    (await crm.query<Kept>('select version, email from suppressions where key = $1', [email])).rows[0];

  /** Opts somebody out, and writes what `forge` makes of that person's record beside it; resolves once the worker has read on. */
  async function forged(forge: (row: Row) => object): Promise<{ email: string; subjectId: string }> {
    const email = somebody();
    const id = (await stack.optOut(email))!;
    await carriedBy(id);
    const [{ subject_id: subjectId } = { subject_id: '' }] = await stack.query<{ subject_id: string }>(
      'select subject_id from decisions where opt_out_id = $1',
      [id],
    );
    const consumer = stack.kafka.consumer({ groupId: `test-forge-${randomUUID()}`, maxWaitTimeInMs: 100 });
    const producer = stack.kafka.producer();
    try {
      await Promise.all([consumer.connect(), producer.connect()]);
      await consumer.subscribe({ topic: DECISIONS_TOPIC, fromBeginning: true });
      const found = Promise.withResolvers<{ partition: number; value: Buffer }>();
      await consumer.run({
        eachMessage: ({ partition, message: { key, value } }) => {
          if (String(key) === subjectId) found.resolve({ partition, value: value! });
          return Promise.resolve();
        },
      });
      const { partition, value } = await found.promise;
      const schema = await createSchemaFetch(`http://127.0.0.1:${stack.ports.registry}/apis/ccompat/v7`)(
        value.readInt32BE(1),
      );
      const type = avro.Type.forSchema(schema as avro.Schema);
      const body = type.toBuffer(forge(type.fromBuffer(value.subarray(5)) as Row));
      const [written] = await producer.send({
        topic: DECISIONS_TOPIC,
        messages: [{ partition, key: subjectId, value: Buffer.concat([value.subarray(0, 5), body]) }],
      });
      await eventually(async () => {
        const [group] = await stack.admin.fetchOffsets({
          groupId: groupOf('crm'),
          topics: [DECISIONS_TOPIC],
        });
        const { offset } = group!.partitions.find((one) => one.partition === partition)!;
        expect(Number(offset)).toBeGreaterThan(Number(written!.baseOffset));
      });
    } finally {
      await Promise.all([consumer.disconnect(), producer.disconnect()]);
    }
    return { email, subjectId };
  }
  const consent = (row: Row, version: number): object => ({
    ...row,
    version,
    cause: 'grant',
    suppressed: '{}',
    granted: JSON.stringify({ email: { at: new Date().toISOString(), version } }),
  });

  test('lifts nothing', async () => {
    const { email } = await forged((row) => consent(row, 51));
    expect(await kept(email)).toEqual({ version: '1', email: true });
  });

  test('nor does it under a version that no store would be told anything beyond', async () => {
    const { email } = await forged((row) => ({ ...row, version: 2 ** 53 - 10, suppressed: '{}' }));
    expect(await kept(email)).toEqual({ version: '1', email: true });
    await untilStreaming();
  });

  test('leaves a version in the store at most, above which is decided anew', async () => {
    const { email, subjectId } = await forged((row) => ({ ...row, version: 51 }));
    await eventually(async () => expect(await kept(email)).toEqual({ version: '52', email: true }));
    expect(await stack.query('select version from subjects where id = $1', [subjectId])).toEqual([
      { version: '52' },
    ]);
  });

  // Found by reading: her own row was read back, and the other person's opt-out that the store refuses was verified.
  test('under the number of another decision settles nothing of that one', async () => {
    const refused = somebody();
    await crm.query(`alter table suppressions add constraint refused check (key <> '${refused}')`);
    try {
      const id = (await stack.optOut(refused))!;
      type Parked = { seq: string; kind: string };
      const parked = (): Promise<Parked[]> =>
        stack.query(
          'select seq, e.kind from exceptions e join decisions d using (seq) where d.opt_out_id = $1',
          [id],
        );
      const [{ seq }] = await eventually(async () => {
        const rows = await parked();
        expect(rows).toMatchObject([{ kind: 'quarantine' }]);
        return rows as [Parked];
      });
      await forged((row) => ({ ...row, seq: Number(seq) }));
      expect(await parked()).toEqual([{ seq, kind: 'quarantine' }]);
      expect(await stack.query('select outcome from acknowledgements where seq = $1', [seq])).toEqual([]);
    } finally {
      await crm.query('alter table suppressions drop constraint refused');
    }
    await eventually(async () => expect(await kept(refused)).toEqual({ version: '1', email: true }));
  });
});

test('what is prepared for an API that listens everywhere is a key a role, the same when it is prepared again, and enough', async () => {
  const name = `prepared_${process.pid}`;
  const folder = await mkdtemp(join(tmpdir(), 'abide-prepared-'));
  const { urls } = (await findEmbeddedPostgres(stack.folder))!;
  const inDatabase = (url: string): string => Object.assign(new URL(url), { pathname: `/${name}` }).href;
  const { broker, registry, connect: connectPort } = stack.ports;
  const [port, opsPort] = [await freePort(), await freePort()];
  await stack.query(`create database ${name} owner abide_owner`);
  try {
    await writeFile(
      join(folder, 'abide.yaml'),
      `source: kafka
database: ${inDatabase(urls.api)}
owner_database: ${inDatabase(urls.owner)}
replication_database: ${inDatabase(urls.replication)}
listen: 0.0.0.0:${port}
ops_listen: 127.0.0.1:${opsPort}
kafka: { brokers: ['127.0.0.1:${broker}'], registry: 'http://127.0.0.1:${registry}/apis/ccompat/v7', connect: 'http://127.0.0.1:${connectPort}' }
stores:
  crm: { connector: postgres, url: ${inDatabase(urls.owner)}, scopes: [email] }
`,
    );
    const prepare = () =>
      runAbide(['stack', 'prepare', '--data', folder, '--worker-keys', join(folder, 'workers')], {
        ABIDE_CONFIG: join(folder, 'abide.yaml'),
      });
    const keys = () =>
      Promise.all(
        ['admin.key', 'keys.json', 'workers/crm'].map((file) => readFile(join(folder, file), 'utf8')),
      );
    const first = await prepare();
    expect(first).toMatchObject({ code: 0 });
    const made = await keys();
    expect(first.stdout).toContain(made[0]!.trim());

    expect(await prepare()).toMatchObject({ code: 0 });
    expect(await keys()).toEqual(made);

    // As docker-compose.yml starts it, and checks its health.
    const api = spawnAbide(['serve', '--no-workers'], {
      ABIDE_CONFIG: join(folder, 'abide.yaml'),
      ABIDE_DATA: folder,
    });
    try {
      await eventually(async () => {
        expect([api.child.exitCode, api.output()]).toEqual([null, expect.anything()]);
        const { statusCode, body } = await request(`http://127.0.0.1:${opsPort}/readyz`);
        await body.dump();
        expect(statusCode).toBe(200);
      });
      const { statusCode, body } = await request(`http://127.0.0.1:${port}/v1/propagation-lag`, {
        headers: { authorization: `Bearer ${made[0]!.trim()}` },
      });
      await body.dump();
      expect(statusCode).toBe(200);
    } finally {
      api.child.kill('SIGTERM');
      await api.ended;
    }
  } finally {
    await stack.query(`drop database ${name} with (force)`);
    await rm(folder, { recursive: true });
  }
});

describe('kill -9 under load: every opt-out that was answered is acknowledged, and the lag tells the truth', () => {
  test.each(['worker-crm', 'connect', 'broker', 'api', 'postgres'])('%s', async (program) => {
    await throughIt(() => kill(program));
  });
});

test('kill -9 of the registry and then of the worker: it comes back with its schemas, by which the next worker reads', async () => {
  await throughIt(async () => {
    await kill('registry');
    await kill('worker-crm');
  });
});

test('while Connect hangs the ledger is polled: opt-outs arrive all the same, and the lag denies the stream', async () => {
  const hung = await stack.pidOf('connect');
  process.kill(hung, 'SIGSTOP');
  try {
    await eventually(async () => expect((await stack.lag()).sources[0]!.status).toBe('unknown'));
    const id = (await stack.optOut(somebody()))!;
    expect(await carriedBy(id)).toBe('catch_up');
  } finally {
    process.kill(hung, 'SIGCONT');
  }
  await untilStreaming();
});

describe('what else is lost on the way is driven again from the ledger', () => {
  test('the connector is deleted: it is registered anew', async () => {
    await throughIt(async () => {
      await connect('DELETE', 'connectors/abide');
    });
  });

  // It is the same after an upgrade that changes the connector: only a missing connector was ever registered.
  test('the connector has other settings than ours: the API gives it ours when it starts', async () => {
    const url = `http://127.0.0.1:${stack.ports.connect}`;
    const { body } = await request(`${url}/connectors/abide/config`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...readConnector(), name: 'abide', 'poll.interval.ms': '50' }),
    });
    await body.dump();
    const api = createConnectApi(url);
    expect(await api.isRegistered()).toBe(false);

    await stack.restart(['api']);
    await eventually(async () => expect(await api.isRegistered()).toBe(true));
  });

  test('what the stream loses while it seems alive is counted, one by one: the table is taken out of the publication', async () => {
    await untilStreaming();
    const redriven = async (): Promise<number> => (await stack.lag()).sources[0]!.redriven;
    const newest = async (): Promise<string> =>
      (await stack.query<{ seq: string }>('select max(seq)::text as seq from decisions'))[0]!.seq;
    const [captured] = await stack.query<{ columns: string }>(
      `select (select string_agg(quote_ident(name), ', ') from unnest(attnames) name) as columns
         from pg_publication_tables where pubname = 'abide' and tablename = 'decisions'`,
    );
    async function loseSome(): Promise<{ before: number; from: string; carriers: readonly string[] }> {
      const before = await redriven();
      await stack.query('alter publication abide drop table decisions');
      const from = await newest();
      const ids: string[] = [];
      try {
        for (let n = 0; n < 25; n += 1) ids.push((await stack.optOut(somebody()))!);
        await eventually(async () => expect(await outstandingOf(ids)).toBe(0));
      } finally {
        await stack.query(`alter publication abide add table decisions (${captured!.columns})`);
      }
      return { before, from, carriers: await Promise.all(ids.map(carriedBy)) };
    }
    let lost = await loseSome();
    // If the stream is seen to be down, as it may be beside much else, the ledger is polled, and the stream loses nothing.
    for (let tries = 1; tries < 5 && lost.carriers.includes('catch_up'); tries += 1) {
      await untilStreaming();
      lost = await loseSome();
    }
    const { before, from, carriers } = lost;
    expect(new Set(carriers)).toEqual(new Set(['redrive']));
    // Anything else recorded meanwhile was lost as well.
    const [row] = await stack.query<{ lost: number }>(
      "select count(*)::int as lost from acknowledgements where seq > $1 and carried_by = 'redrive'",
      [from],
    );
    expect(row!.lost).toBeGreaterThanOrEqual(25);
    expect((await redriven()) - before).toBe(row!.lost);
    await untilStreaming();
  });

  test('the replication slot is dropped', async () => {
    await throughIt(async () => {
      await eventually(async () => {
        await stack.query(
          "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'abide_kafka' and active",
        );
        await stack.query("select pg_drop_replication_slot('abide_kafka')");
      });
    });
  });

  test('the topic is deleted', async () => {
    await throughIt(async () => {
      await stack.admin.deleteTopics({ topics: [DECISIONS_TOPIC] });
    });
  });

  test.each([
    ['beginning', true],
    ['end', false],
  ])('the offsets of the group are reset to the %s', async (_, earliest) => {
    await throughIt(async () => {
      // Only the offsets of a group without members can be set: a hanging worker is put out of it.
      const worker = await stack.pidOf('worker-crm');
      process.kill(worker, 'SIGSTOP');
      await eventually(() =>
        stack.admin.resetOffsets({ groupId: groupOf('crm'), topic: DECISIONS_TOPIC, earliest }),
      );
      process.kill(worker, 'SIGKILL');
    });
  });

  test('two workers share the partitions, and a killed one leaves its share within seconds', async () => {
    const shares = async (): Promise<number[]> => {
      const { groups } = await stack.admin.describeGroups([groupOf('crm')]);
      expect(groups[0]!.state).toBe('Stable');
      return groups[0]!.members.map(
        ({ memberAssignment }) =>
          AssignerProtocol.MemberAssignment.decode(memberAssignment)!.assignment[DECISIONS_TOPIC]!.length,
      );
    };
    await throughIt(async () => {
      const second = spawnAbide(['worker', '--store', 'crm'], await stack.workerEnvironment('crm'));
      try {
        await eventually(async () => expect(await shares()).toEqual([6, 6]));
      } finally {
        second.child.kill('SIGKILL');
        await second.ended;
      }
      await eventually(async () => expect(await shares()).toEqual([12]));
    });
  });

  // Connect makes them only at its start. The task went on hanging, and said that it ran.
  test("Connect's own topics are deleted, and the task starts again without them", async () => {
    await throughIt(async () => {
      const topics = [...readTopicsOfConnect()];
      await stack.admin.deleteTopics({ topics });
      await stack.query(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'abide_kafka' and active",
      );
      await eventually(async () =>
        expect(await stack.admin.listTopics()).toEqual(expect.arrayContaining(topics)),
      );
      // The connector is in its topic again: otherwise the next join of Connect's group would be followed by one after another.
      await eventually(async () => {
        const [configs] = await stack.admin.fetchTopicOffsets('abide-connect-configs');
        expect(Number(configs!.high)).toBeGreaterThan(0);
      });
    });
  });
});

test("a program of somebody's own that reads the topic is a store like any other", async () => {
  const { urls } = (await findEmbeddedPostgres(stack.folder))!;
  const pool = openPool(urls.api, { max: 2, onError: () => undefined });
  const folder = await mkdtemp(join(tmpdir(), 'abide-consumer-'));
  const program = fileURLToPath(new URL('../../docs/examples/topic-consumer.mjs', import.meta.url));
  let running: { child: ChildProcess; ended: Promise<unknown>; said: () => string } | undefined;
  const stop = async (): Promise<void> => {
    running?.child.kill('SIGTERM');
    await running?.ended;
  };
  /** `theirs` in the answer of an opt-out's propagation. */
  const theirs = (id: string): Promise<string> =>
    eventually(async () => {
      const [row] = await stack.query<{ outcome: string; carried_by: string }>(
        `select a.outcome, a.carried_by from acknowledgements a join decisions d using (seq) join stores s on s.id = a.store_id
           where d.opt_out_id = $1 and s.name = 'theirs'`,
        [id],
      );
      if (row === undefined) throw new Error(running!.said());
      return `${row.outcome} by ${row.carried_by}`;
    });
  try {
    const before = (await stack.optOut('before@example.com'))!;
    await syncStores(pool, [
      storeOf({ name: 'theirs', connector: 'elsewhere', scopes: ['email'], required: false }),
    ]);
    const { token } = await createKey(pool, {
      client: 'theirs',
      scopes: ['acknowledgements:write'],
      store: 'theirs',
      expiresAt: undefined,
      caller: undefined,
    });
    const start = async (): Promise<void> => {
      const child = spawn(process.execPath, [program], {
        env: {
          PATH: process.env['PATH'],
          BROKERS: `127.0.0.1:${stack.ports.broker}`,
          REGISTRY: `http://127.0.0.1:${stack.ports.registry}/apis/ccompat/v7`,
          API: stack.url,
          KEY: token,
          STORE: 'theirs',
          FILE: join(folder, 'suppressions.json'),
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let text = '';
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (more: string) => (text += more));
      running = {
        child,
        ended: new Promise((resolve) => child.once('close', resolve)),
        said: () => text,
      };
      await eventually(() => expect(text).toContain('consuming'));
    };
    await start();
    // An older one comes by the ledger. A new one comes by the topic; in a busy moment either may be faster.
    expect(await theirs(before)).toMatch(/^verified by (backfill|stream)$/);
    await eventually(async () => {
      const id = (await stack.optOut(somebody()))!;
      expect(await theirs(id)).toBe('verified by stream');
    });

    await stop();
    const meanwhile = (await stack.optOut('meanwhile@example.com'))!;
    await start();
    expect(await theirs(meanwhile)).toMatch(/^verified by (catch_up|stream)$/);
    const held = JSON.parse(await readFile(join(folder, 'suppressions.json'), 'utf8')) as Record<
      string,
      { scopes: Record<string, boolean> }
    >;
    for (const email of ['before@example.com', 'meanwhile@example.com'])
      expect(held[`email:${email}`]?.scopes['email']).toBe(true);
  } finally {
    await stop();
    await changeStore(pool, 'theirs', 'retired', { reason: 'the test is over' }, undefined);
    await pool.end();
    await rm(folder, { recursive: true, force: true });
  }
});
