import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { loadConfiguration } from '../../config/configuration.ts';
import { loadConnector } from '../../processes/load-connector.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'abide-config-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function load(yaml: string, { env = {}, only }: { env?: Record<string, string>; only?: string } = {}) {
  const path = join(folder, 'abide.yaml');
  writeFileSync(path, yaml);
  return loadConfiguration({
    path,
    env,
    loadConnector,
    only,
    embeddedStoreUrl: () => Promise.reject(new Error('not asked')),
  });
}
const STORES = `
stores:
  crm: { connector: postgres, url: 'postgres://crm@localhost/crm', scopes: [email] }
`;

test('who we are to the brokers, and by which certificates they are who they say', async () => {
  const ca = join(folder, 'ca.pem');
  writeFileSync(ca, 'a certificate');
  const { source, kafka } = await load(
    `source: kafka
kafka:
  brokers: [one:9093, two:9093]
  tls: { ca: '${ca}' }
  sasl: { username: abide-crm, password: \${KAFKA_PASSWORD} }
${STORES}`,
    { env: { KAFKA_PASSWORD: 'secret' } },
  );

  expect({ source, kafka }).toMatchObject({
    source: 'kafka',
    kafka: {
      brokers: ['one:9093', 'two:9093'],
      tls: { ca: 'a certificate' },
      sasl: { mechanism: 'scram-sha-512', username: 'abide-crm', password: 'secret' },
    },
  });
});

test('without a word about them neither TLS nor a name is used', async () => {
  const { kafka } = await load(`source: kafka\n${STORES}`);

  expect(kafka).toEqual({
    brokers: ['127.0.0.1:9092'],
    registry: 'http://127.0.0.1:8081/apis/ccompat/v7',
    connect: 'http://127.0.0.1:8083',
    tls: undefined,
    sasl: undefined,
  });
});

test('a worker reads how decisions travel and its own store, and needs no secret of others', async () => {
  const yaml = `source: kafka
database: \${NOT_HERE}
kafka: { brokers: [one:9093] }
stores:
  crm: { connector: postgres, url: 'postgres://crm@localhost/crm', scopes: [email] }
  mail: { connector: http, url: 'https://mail.internal', secret: \${NOT_HERE_EITHER}, scopes: [email] }
`;
  const own = await load(yaml, { only: 'crm' });

  expect(own).toMatchObject({ source: 'kafka', kafka: { brokers: ['one:9093'] }, database: undefined });
  expect(own.stores.map(({ name }) => name)).toEqual(['crm']);
});

test.each([
  ['a certificate that is not there', 'tls: { ca: /nowhere/ca.pem }', 'must be a PEM file that can be read'],
  [
    'a mechanism that nobody knows',
    'sasl: { mechanism: digest, username: a, password: b }',
    'kafka.sasl.mechanism',
  ],
  ['a password that is missing', 'sasl: { username: a }', 'kafka.sasl.password'],
])('%s is refused, with line and column', async (_, setting, said) => {
  const refused = load(`source: kafka\nkafka:\n  ${setting}\n${STORES}`);

  await expect(refused).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  await expect(refused).rejects.toThrow(said);
  await expect(refused).rejects.toThrow(/line 3, column \d+/);
});
