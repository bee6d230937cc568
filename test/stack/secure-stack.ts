// The stack of the run as operations would secure it: a listener with TLS by a CA of the test and SCRAM, an authorizer with the
// rights that docs/kafka.md lists and no others, and a registry behind basic authentication. API and Connect use these; the stack's
// own worker and the tests stay on the plain listener, whose anonymous user may do everything.
import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, request as ask } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { AclOperationTypes, AclPermissionTypes, AclResourceTypes, ResourcePatternTypes } from 'kafkajs';
import type { AclEntry } from 'kafkajs';
import { request } from 'undici';
import { parse, stringify } from 'yaml';
import { readConnector } from '../../debezium/connect-api.ts';
import { findJava } from '../../processes/stack/find-java.ts';
import { resolveStack } from '../../processes/stack/resolve-stack.ts';
import { readPage, tableOf } from '../docs/markdown.ts';
import { runAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import type { RunningStack } from '../harness/stack-of-the-run.ts';

const run = promisify(execFile);
export const STORE = 'secured';
const PRINCIPALS = { API: 'abide-api', worker: `abide-${STORE}`, Connect: 'abide-connect' } as const;
export const passwordOf = (principal: string): string => `secret-of-${principal}`;

export type SecureStack = AsyncDisposable & {
  readonly brokers: string;
  /** The certificates that prove who the broker is, and those of somebody else. */
  readonly ca: string;
  readonly otherCa: string;
  readonly registry: (password: string) => string;
  /** The API's configuration, for `abide doctor`. */
  readonly apiConfig: string;
  /** Writes a worker's configuration with these settings; gives its path. */
  workerConfig(name: string, kafka?: object): Promise<string>;
  readonly workerKey: string;
  /** The worker's rights, as documented. */
  readonly workerRights: readonly AclEntry[];
};

/** The documented rights of everybody. */
export function documentedRights(): AclEntry[] {
  const page = readPage('docs/kafka.md');
  const rows = tableOf(page.slice(page.indexOf('## Who may do what in Kafka')));
  return rows.flatMap(([who, resources, operations]) => {
    if (!Object.keys(PRINCIPALS).includes(who!)) return [];
    const principal = `User:${PRINCIPALS[who as keyof typeof PRINCIPALS]}`;
    const isGroup = resources!.startsWith('group');
    return [...resources!.matchAll(/`([^`]+)`( \(prefix\))?/g)].flatMap(([, name, prefix]) =>
      operations!.split(', ').map((operation) => ({
        principal,
        host: '*',
        resourceType: isGroup ? AclResourceTypes.GROUP : AclResourceTypes.TOPIC,
        resourceName: name!.replace('STORE', STORE),
        resourcePatternType:
          prefix === undefined ? ResourcePatternTypes.LITERAL : ResourcePatternTypes.PREFIXED,
        operation: OPERATIONS[operation]!,
        permissionType: AclPermissionTypes.ALLOW,
      })),
    );
  });
}

/** If it was not heard of within this time, somebody else has changed the settings meanwhile. */
const OVERWRITTEN_MS = 10_000;

const OPERATIONS: Readonly<Record<string, AclOperationTypes>> = {
  Create: AclOperationTypes.CREATE,
  Describe: AclOperationTypes.DESCRIBE,
  DescribeConfigs: AclOperationTypes.DESCRIBE_CONFIGS,
  Read: AclOperationTypes.READ,
  Write: AclOperationTypes.WRITE,
};

export async function secureStack(stack: RunningStack): Promise<SecureStack> {
  await using place = new AsyncDisposableStack();
  const folder = join(stack.folder, STORE);
  await mkdir(folder, { recursive: true });
  const file = (name: string): string => join(folder, name);
  await makeCertificates(folder);
  const port = await freePort();
  const brokers = `127.0.0.1:${port}`;

  const properties = (name: string): string => join(stack.folder, 'stack', `${name}.properties`);
  const config = join(stack.folder, 'stack/abide.yaml');
  const files = [properties('broker'), properties('connect'), config];
  // Told to end, Connect waits up to a minute for brokers that it cannot reach by the settings that it has.
  const restartConnect = () => stack.restart(['connect'], 'SIGKILL');
  const before = new Map(
    await Promise.all(files.map(async (path) => [path, await readFile(path, 'utf8')] as const)),
  );
  place.defer(async () => {
    for (const [path, text] of before) await writeFile(path, text);
    await restartConnect();
    await stack.restart(['broker', 'api']);
    await eventually(() => stack.retire([STORE]));
  });

  await writeFile(properties('broker'), securedBroker(before.get(properties('broker'))!, { port, folder }));
  await stack.restart(['broker']);
  await stack.admin.connect();
  place.defer(() => stack.admin.disconnect());
  await makeUsers(stack);
  const rights = documentedRights();
  await eventually(() => stack.admin.createAcls({ acl: rights }));

  const registry = await authenticate(stack.ports.registry, passwordOf('registry'));
  place.defer(() => registry.close());
  const connector = `http://127.0.0.1:${stack.ports.connect}/connectors/abide/config`;
  const configure = async (settings: object): Promise<void> => {
    const { statusCode, body } = await request(connector, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...readConnector(), ...settings }),
    });
    await body.dump();
    if (statusCode >= 300) throw new Error(`Connect answers ${statusCode}`);
  };
  const registryUrl = (password: string): string =>
    `http://abide:${password}@127.0.0.1:${registry.port}/apis/ccompat/v7`;
  const kafkaOf = (principal: string): object => ({
    brokers: [brokers],
    registry: registryUrl(passwordOf('registry')),
    connect: `http://127.0.0.1:${stack.ports.connect}`,
    tls: { ca: file('ca.pem') },
    sasl: { mechanism: 'scram-sha-512', username: principal, password: '${KAFKA_PASSWORD}' },
  });
  const { stores, ...rest } = parse(before.get(config)!) as {
    stores: { crm: { url: string } };
    kafka: object;
  };
  const store = {
    connector: 'postgres',
    url: stores.crm.url,
    table: STORE,
    scopes: ['email'],
    required: false,
  };
  const apiConfig = file('api.yaml');
  const literal = { ...kafkaOf(PRINCIPALS.API), sasl: saslOf(PRINCIPALS.API) };
  await writeFile(apiConfig, stringify({ ...rest, kafka: literal, stores: { ...stores, [STORE]: store } }));

  await writeFile(
    properties('connect'),
    securedConnect(before.get(properties('connect'))!, { brokers, folder }),
  );
  await writeFile(config, await readFile(apiConfig, 'utf8'));
  await restartConnect();
  await stack.restart(['api']);
  // Once the API reaches Connect it looks at the connector, and replaces another one by its own; it does so only once.
  await eventually(async () => {
    const [source] = (await stack.lag()).sources;
    if ((source?.task ?? 'unknown') === 'unknown') throw new Error('the API has not seen the connector');
  });
  // What ABIDE_REGISTRY and its two companions would set.
  const asked = registry.granted();
  place.defer(() => eventually(() => configure({})));
  await eventually(async () => {
    await configure({
      'value.converter.apicurio.registry.url': `http://127.0.0.1:${registry.port}/apis/registry/v2`,
      'value.converter.apicurio.auth.username': 'abide',
      'value.converter.apicurio.auth.password': passwordOf('registry'),
    });
    // The API may still be changing it.
    await eventually(() => {
      if (registry.granted() === asked) throw new Error('Connect did not enter the registry');
    }, OVERWRITTEN_MS);
  });
  // What the stack's own worker finds when it is restarted.
  await writeFile(config, before.get(config)!);

  const key = await runAbide(['keys', 'create', '--client', `${STORE}-worker`, '--store', STORE], {
    ABIDE_DATA: stack.folder,
    ABIDE_CONFIG: apiConfig,
    ABIDE_LOG: 'silent',
  });
  if (key.code !== 0) throw new Error(key.output);
  const owned = place.move();
  return {
    brokers,
    ca: file('ca.pem'),
    otherCa: file('other.pem'),
    registry: registryUrl,
    apiConfig,
    workerConfig: async (name, kafka = {}) => {
      const path = file(`${name}.yaml`);
      const text = {
        source: 'kafka',
        kafka: { ...kafkaOf(PRINCIPALS.worker), ...kafka },
        stores: { [STORE]: store },
      };
      await writeFile(path, stringify(text));
      return path;
    },
    workerKey: key.stdout.trim(),
    workerRights: rights.filter(({ principal }) => principal === `User:${PRINCIPALS.worker}`),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const saslOf = (principal: string): object => ({
  mechanism: 'scram-sha-512',
  username: principal,
  password: passwordOf(principal),
});

/** Makes ca.pem and other.pem, and keystore.pem with the broker's certificate by the first. */
async function makeCertificates(folder: string): Promise<void> {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder });
  const fresh = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ];
  await openssl(...fresh, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=the CA of the test');
  await openssl(...fresh, '-keyout', 'other.key', '-out', 'other.pem', '-subj', '/CN=another CA');
  const [request, ...rest] = fresh;
  const unsigned = rest.filter((arg) => !['-x509', '-days', '2'].includes(arg));
  await openssl(request!, ...unsigned, '-keyout', 'broker.key', '-out', 'broker.csr', '-subj', '/CN=broker');
  await writeFile(join(folder, 'names'), 'subjectAltName=IP:127.0.0.1');
  const by = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names'];
  await openssl('x509', '-req', '-in', 'broker.csr', ...by, '-days', '2', '-out', 'broker.pem');
  const pem = await Promise.all(
    ['broker.key', 'broker.pem'].map((name) => readFile(join(folder, name), 'utf8')),
  );
  await writeFile(join(folder, 'keystore.pem'), pem.join(''));
}

const SCRAM = 'org.apache.kafka.common.security.scram.ScramLoginModule required';

function securedBroker(text: string, { port, folder }: { port: number; folder: string }): string {
  return `${text
    .replace(/^((?:advertised\.)?listeners=)/gm, `$1SECURE://127.0.0.1:${port},`)
    .replace(/^(listener\.security\.protocol\.map=)/m, '$1SECURE:SASL_SSL,')}
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=${join(folder, 'keystore.pem')}
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=${SCRAM};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
`;
}

function securedConnect(text: string, { brokers, folder }: { brokers: string; folder: string }): string {
  const principal = PRINCIPALS.Connect;
  const secured = [
    'security.protocol=SASL_SSL',
    'sasl.mechanism=SCRAM-SHA-512',
    `sasl.jaas.config=${SCRAM} username="${principal}" password="${passwordOf(principal)}";`,
    'ssl.truststore.type=PEM',
    `ssl.truststore.location=${join(folder, 'ca.pem')}`,
  ];
  const all = ['', 'producer.', 'admin.'].flatMap((prefix) => secured.map((line) => prefix + line));
  return `${text.replace(/^bootstrap\.servers=.*$/m, `bootstrap.servers=${brokers}`)}\n${all.join('\n')}\n`;
}

async function makeUsers(stack: RunningStack): Promise<void> {
  const { env } = process;
  const java = await findJava(env);
  const installed = await resolveStack({
    java,
    env,
    print: () => undefined,
    signal: new AbortController().signal,
  });
  await Promise.all(
    Object.values(PRINCIPALS).map((principal) =>
      run(java.java, [
        ...['-XX:TieredStopAtLevel=1', '-cp', join(installed, 'libs/*'), 'kafka.admin.ConfigCommand'],
        ...['--bootstrap-server', `127.0.0.1:${stack.ports.broker}`, '--alter'],
        ...['--entity-type', 'users', '--entity-name', principal],
        ...['--add-config', `SCRAM-SHA-512=[iterations=4096,password=${passwordOf(principal)}]`],
      ]),
    ),
  );
}

/** The registry behind basic authentication, as a proxy in front of it would do it. */
async function authenticate(
  port: number,
  password: string,
): Promise<{ readonly port: number; granted(): number; close(): Promise<void> }> {
  const expected = `Basic ${Buffer.from(`abide:${password}`).toString('base64')}`;
  let granted = 0;
  const server = createServer((incoming, answer) => {
    if (incoming.headers.authorization !== expected) {
      answer.writeHead(401).end('{"error_code":401,"message":"who are you?"}');
      return;
    }
    granted += 1;
    const { method = 'GET', url = '/', headers } = incoming;
    const passed = ask({ host: '127.0.0.1', port, method, path: url, headers }, (reply) => {
      answer.writeHead(reply.statusCode ?? 502, reply.headers);
      reply.pipe(answer);
    });
    passed.on('error', () => answer.destroy());
    incoming.pipe(passed);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    granted: () => granted,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
