// The change-source conformance on Kafka: a ledger, a connector and topics of its own in the stack of the run.
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import type { Kafka } from 'kafkajs';
import pg from 'pg';
import { request } from 'undici';
import { readConnector } from '../../debezium/connect-api.ts';
import { makeTopics } from '../../debezium/ensure-topics.ts';
import { migrate } from '../../ledger/migrate.ts';
import { findEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { quietLog } from '../../processes/log.ts';
import { createKafka } from '../../stream/kafka-client.ts';
import { createKafkaSource, createSchemaFetch, groupOf } from '../../stream/kafka-source.ts';
import type { SourcePlace } from '../conformance/change-source.ts';
import { eventually } from '../harness/eventually.ts';
import { ROLES } from '../harness/postgres-of-the-run.ts';
import type { RunningStack } from '../harness/stack-of-the-run.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

const PARTITIONS = 12;

export type KafkaLedger = AsyncDisposable & { open(): Promise<SourcePlace> };

export async function makeKafkaLedger(stack: RunningStack): Promise<KafkaLedger> {
  const name = `conformance_${randomBytes(4).toString('hex')}`;
  const { superuserUrl, urls } = (await findEmbeddedPostgres(stack.folder))!;
  const inDatabase = (url: string): string => Object.assign(new URL(url), { pathname: `/${name}` }).href;
  const databaseUrl = inDatabase(superuserUrl);
  const topic = `${name}.public.decisions`;
  const pulseTopic = `${name}.public.abide_heartbeat`;
  const connector = `http://127.0.0.1:${stack.ports.connect}/connectors/${name}`;

  await stack.query(`create database ${name} owner abide_owner`);
  await migrate(inDatabase(urls.owner), ROLES);
  await makeTopics(stack.admin, [
    { topic, numPartitions: PARTITIONS },
    { topic: pulseTopic, numPartitions: 1 },
    { topic: `__debezium-heartbeat.${name}`, numPartitions: 1 },
  ]);
  const { body } = await request(`${connector}/config`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      ...readConnector(),
      'database.dbname': name,
      'topic.prefix': name,
      'slot.name': name,
      'predicates.isDecision.pattern': `${name}\\.public\\.decisions`,
    }),
  });
  await body.dump();

  return {
    open: async () => {
      const place = new AsyncDisposableStack();
      const line = place.use(await startTcpProxy({ host: '127.0.0.1', port: stack.ports.broker }));
      const store = randomBytes(6).toString('hex');
      await startAtTheEnd(stack, topic, databaseUrl, groupOf(store));
      const kafka = createKafka({
        address: { brokers: [`127.0.0.1:${line.port}`] },
        clientId: 'abide-conformance',
        log: quietLog,
        // The broker gives its own address, which would lead past the line.
        socketFactory: ({ onConnect }) => connect({ host: '127.0.0.1', port: line.port }, onConnect),
      });
      const source = place.use(
        createKafkaSource({
          kafka,
          fetchSchema: createSchemaFetch(`http://127.0.0.1:${stack.ports.registry}/apis/ccompat/v7`),
          store,
          topic,
          pulseTopic,
          parkedTopic: 'abide.parked',
          log: quietLog,
        }),
      );
      return { source, databaseUrl, line, [Symbol.asyncDispose]: () => place.disposeAsync() };
    },
    [Symbol.asyncDispose]: async () => {
      await (await request(connector, { method: 'DELETE' })).body.dump();
      await eventually(() => stack.query('select pg_drop_replication_slot($1)', [name]));
      await stack.query(`drop database ${name} with (force)`);
    },
  };
}

/** What other tests decided is behind the group: it begins where the topic ends once all of that is there. */
async function startAtTheEnd(
  { admin, kafka }: RunningStack,
  topic: string,
  databaseUrl: string,
  groupId: string,
): Promise<void> {
  const client = new pg.Client(databaseUrl);
  await client.connect();
  try {
    await eventually(async () => {
      const { rows } = await client.query<{ count: number }>('select count(*)::int as count from decisions');
      const offsets = await admin.fetchTopicOffsets(topic);
      const there = offsets.reduce((sum, { high }) => sum + Number(high), 0);
      if (there !== rows[0]!.count) throw new Error(`${there} of ${rows[0]!.count} are in the topic`);
      await commitAs(kafka, groupId, topic, offsets);
    });
  } finally {
    await client.end();
  }
}

/** The library's own setOffsets() waits for a whole idle fetch, 5 s. */
async function commitAs(
  kafka: Kafka,
  groupId: string,
  topic: string,
  offsets: readonly { partition: number; high: string }[],
): Promise<void> {
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 20 });
  const joined = new Promise<void>((resolve) => {
    consumer.on('consumer.group_join', () => resolve());
  });
  await consumer.connect();
  try {
    await consumer.subscribe({ topic });
    await consumer.run({ autoCommit: false, eachMessage: () => Promise.resolve() });
    await joined;
    await consumer.commitOffsets(offsets.map(({ partition, high }) => ({ topic, partition, offset: high })));
  } finally {
    await consumer.disconnect();
  }
}
