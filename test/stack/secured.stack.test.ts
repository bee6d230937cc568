// TLS, SCRAM and the documented rights against a real broker: a client that has them is served by the stream, one that lacks a
// right is told which.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { AclOperationTypes, AclResourceTypes } from 'kafkajs';
import type { AclEntry } from 'kafkajs';
import { DECISIONS_TOPIC, HEARTBEAT_TOPIC, PARKED_TOPIC } from '../../debezium/files.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { findStackOfTheRun } from '../harness/stack-of-the-run.ts';
import type { RunningStack } from '../harness/stack-of-the-run.ts';
import { STORE, documentedRights, passwordOf, secureStack } from './secure-stack.ts';
import type { SecureStack } from './secure-stack.ts';

const WITHIN_MS = 30_000;

let stack: RunningStack;
let secure: SecureStack;
/** Everything that a worker or a command of this suite printed. */
let printed = '';
let people = 0;
const somebody = (): string => `secured.${process.pid}.${(people += 1)}@example.com`;

beforeAll(async () => {
  stack = await findStackOfTheRun();
  secure = await secureStack(stack);
});
afterAll(async () => {
  await secure[Symbol.asyncDispose]();
});

type Running = AsyncDisposable & {
  readonly output: () => string;
  readonly ended: Promise<number | null>;
  /** What the worker reports of its stream. */
  status(): Promise<string | undefined>;
};

function startWorker(config: string, password = passwordOf(`abide-${STORE}`)): Running {
  const { child, ended, output } = spawnAbide(['worker', '--store', STORE, '--config', config], {
    ABIDE_URL: stack.url,
    ABIDE_KEY: secure.workerKey,
    KAFKA_PASSWORD: password,
  });
  return {
    output,
    ended,
    status: async () => {
      const [row] = await stack.query<{ status: string }>(
        "select report -> 'source' ->> 'status' as status from workers where starts_with(id, $1)",
        [`${hostname()}-${child.pid}-`],
      );
      return row?.status;
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM');
      await ended;
      printed += output();
    },
  };
}

/** How the decision came to the store, once the store holds it. */
const carriedBy = (id: string): Promise<string> =>
  eventually(async () => {
    const [row] = await stack.query<{ carried_by: string }>(
      `select a.carried_by from acknowledgements a join decisions d using (seq) join stores s on s.id = a.store_id
       where d.opt_out_id = $1 and s.name = $2`,
      [id, STORE],
    );
    if (row === undefined) throw new Error('not acknowledged');
    return row.carried_by;
  }, WITHIN_MS);

const untilStreaming = (): Promise<void> =>
  eventually(async () => {
    expect(await carriedBy((await stack.optOut(somebody()))!)).toBe('stream');
  }, WITHIN_MS);

/** Withdraws the right while `work` is done. */
async function without(right: (acl: AclEntry) => boolean, work: () => Promise<void>): Promise<void> {
  const withdrawn = secure.workerRights.filter(right);
  expect(withdrawn.length).toBeGreaterThan(0);
  await stack.admin.deleteAcls({ filters: withdrawn });
  try {
    await work();
  } finally {
    await stack.admin.createAcls({ acl: withdrawn });
  }
}

/** The ledger carries meanwhile, unless what is read without a claim is faster. */
async function isServedByTheLedger(worker: Running, says: RegExp, by = /^catch_up$/): Promise<void> {
  await eventually(() => expect(worker.output()).toMatch(says), WITHIN_MS);
  await eventually(async () => expect(await worker.status()).toBe('down'), WITHIN_MS);
  expect(await carriedBy((await stack.optOut(somebody()))!)).toMatch(by);
  await eventually(async () => expect(await worker.status()).toBe('down'), WITHIN_MS);
}

describe('with the rights that are documented, and no others', () => {
  test('Debezium writes, a worker reads, and what cannot be read is parked', async () => {
    await using worker = startWorker(await secure.workerConfig('right'));
    await untilStreaming();
    await eventually(async () => expect(await worker.status()).toBe('ok'), WITHIN_MS);

    const parked = async (): Promise<number> =>
      Number((await stack.admin.fetchTopicOffsets(PARKED_TOPIC))[0]!.high);
    const before = await parked();
    const producer = stack.kafka.producer();
    await producer.connect();
    await producer.send({ topic: DECISIONS_TOPIC, messages: [{ key: null, value: 'no decision at all' }] });
    await producer.disconnect();
    // The stack's own worker parks it as well.
    await eventually(async () => expect(await parked()).toBeGreaterThanOrEqual(before + 2), WITHIN_MS);
    await untilStreaming();
  });

  test('the API makes a topic that is missing', async () => {
    await stack.admin.deleteTopics({ topics: [PARKED_TOPIC] });
    await eventually(async () => {
      expect(await stack.admin.listTopics()).toContain(PARKED_TOPIC);
    }, WITHIN_MS);
  });
});

describe('who lacks something is told what, and never claims to be live', () => {
  const WRONG_PASSWORD = /SASL SCRAM SHA512 authentication failed/;
  const UNKNOWN_CA = /unable to verify the first certificate|self-signed certificate/;

  test('a wrong password', async () => {
    await using worker = startWorker(await secure.workerConfig('password'), 'not-the-secret');
    await isServedByTheLedger(worker, WRONG_PASSWORD);
  });

  test('a certificate of a CA that it does not know', async () => {
    await using worker = startWorker(await secure.workerConfig('ca', { tls: { ca: secure.otherCa } }));
    await isServedByTheLedger(worker, UNKNOWN_CA);
  });

  test('no right to read the topic', async () => {
    await without(
      ({ resourceName }) => resourceName === DECISIONS_TOPIC,
      async () => {
        await using worker = startWorker(await secure.workerConfig('topic'));
        await isServedByTheLedger(worker, /Not authorized to access topics/);
      },
    );
  });

  test('no right to look at the heartbeat', async () => {
    await without(
      ({ resourceName }) => resourceName === HEARTBEAT_TOPIC,
      async () => {
        await using worker = startWorker(await secure.workerConfig('heartbeat'));
        await isServedByTheLedger(
          worker,
          /Not authorized to access topics.*the heartbeat cannot be read/,
          /^(catch_up|stream)$/,
        );
      },
    );
  });

  test('no right to its group', async () => {
    await without(
      ({ resourceType }) => resourceType === AclResourceTypes.GROUP,
      async () => {
        await using worker = startWorker(await secure.workerConfig('group'));
        await isServedByTheLedger(worker, /gave up: .* it may not read the group abide-secured/);
      },
    );
  });

  test('a wrong password for the registry', async () => {
    const registry = secure.registry('not-the-secret');
    await using worker = startWorker(await secure.workerConfig('registry', { registry }));
    await stack.optOut(somebody());
    await isServedByTheLedger(worker, /"status":401,.*the schema registry does not give a schema/);
  });
});

// It ended, and so did each that was started in its place, over and over, and nobody polled the ledger meanwhile.
test('of a right that is withdrawn while it reads the worker says so, the ledger carries, and it reads again with it', async () => {
  await using worker = startWorker(await secure.workerConfig('withdrawn'));
  await untilStreaming();
  await eventually(async () => expect(await worker.status()).toBe('ok'), WITHIN_MS);
  await without(
    ({ resourceName, operation }) => resourceName === DECISIONS_TOPIC && operation === AclOperationTypes.READ,
    async () => {
      const gaveUp = /gave up: Not authorized to access topics/;
      await isServedByTheLedger(worker, gaveUp);
      // The next client joins the group with no more right than the first had: it claimed to be live until its first fetch failed.
      const [, ...since] = worker.output().split(gaveUp);
      expect(since.join()).not.toContain('the stream does not deliver');
    },
  );
  await untilStreaming();
});

describe('abide doctor', () => {
  type Finding = { what: string; state: string; says: string };
  /** What is not fine on the way of a decision, if the API used this configuration. */
  async function examine(change: (text: string) => string = (text) => text): Promise<Record<string, string>> {
    const path = secure.apiConfig.replace('api.yaml', 'doctor.yaml');
    await writeFile(path, change(await readFile(secure.apiConfig, 'utf8')));
    const { stdout, output } = await runAbide(['doctor', '--json'], {
      ABIDE_DATA: stack.folder,
      ABIDE_CONFIG: path,
    });
    printed += output;
    const findings = JSON.parse(stdout) as Finding[];
    const ofPath = ['kafka', 'topics', 'heartbeat', 'registry', 'connector', 'slot'];
    return Object.fromEntries(
      findings
        .filter(({ what, state }) => ofPath.includes(what) && state !== 'fine')
        .map(({ what, says }) => [what, says]),
    );
  }

  // With the settings of this suite it enters the registry.
  const OTHER_SETTINGS = { connector: 'its task runs, but with other settings than this version has' };

  test('finds nothing wrong where all of it is right, but that the connector has other settings', async () => {
    await eventually(async () => expect(await examine()).toEqual(OTHER_SETTINGS), WITHIN_MS);
  });

  test.each([
    [
      'a wrong password',
      (text: string) => text.replace(passwordOf('abide-api'), 'not-the-secret'),
      'kafka',
      /SASL/,
    ],
    ['an unknown CA', (text: string) => text.replace('/ca.pem', '/other.pem'), 'kafka', /certificate/],
    [
      'a wrong password of the registry',
      (text: string) => text.replace(passwordOf('registry'), 'wrong'),
      'registry',
      /401/,
    ],
  ])('names %s', async (_, change, what, says) => {
    await eventually(async () => {
      const found = await examine(change);
      expect(Object.keys(found).toSorted()).toEqual([what, ...Object.keys(OTHER_SETTINGS)].toSorted());
      expect(found[what]).toMatch(says);
    }, WITHIN_MS);
  });

  test('names a right that the API lacks', async () => {
    const rights = documentedRights().filter(({ principal }) => principal === 'User:abide-api');
    await stack.admin.deleteAcls({ filters: rights });
    try {
      const found = { topics: expect.stringContaining(DECISIONS_TOPIC) as unknown };
      await eventually(async () => expect(await examine()).toMatchObject(found), WITHIN_MS);
    } finally {
      await stack.admin.createAcls({ acl: rights });
    }
  });
});

test('no log and no output of all this holds a secret', async () => {
  const folder = join(stack.folder, 'stack/logs');
  const logs = await Promise.all(
    (await readdir(folder)).map(async (name) => `${name}\n${await readFile(join(folder, name), 'utf8')}`),
  );
  const secrets = ['abide-api', `abide-${STORE}`, 'abide-connect', 'registry'].map(passwordOf);
  secrets.push('not-the-secret', secure.workerKey);
  const all = [...logs, printed];
  expect(printed).toContain('carrying decisions');
  expect(secrets.filter((secret) => all.some((text) => text.includes(secret)))).toEqual([]);
});
