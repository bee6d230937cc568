// The stack gave its whole environment to every program: JVMs and workers had the key ring, the administrator's key and the URLs of
// the ledger's database.
import { expect, test } from '@jest/globals';
import {
  environmentOfJava,
  environmentOfMaven,
  environmentOfWorker,
} from '../../processes/stack/environment.ts';

const ENV = {
  PATH: '/usr/bin',
  HOME: '/home/ada',
  LC_ALL: 'C',
  JAVA_TOOL_OPTIONS: '-Xint',
  NODE_OPTIONS: '--import x',
  ABIDE_LOG: 'info',
  ABIDE_KEYS: 'the key ring',
  ABIDE_ADMIN_KEY: "the administrator's key",
  ABIDE_KEY: "somebody's key",
  DATABASE_URL: 'postgres://abide_api',
  OWNER_URL: 'postgres://abide_owner',
  REPLICATION_URL: 'postgres://abide_replication',
  HOST: 'db',
  CRM_URL: 'postgres://crm',
  MAIL_SECRET: 'of the mail provider',
  EVERYBODYS: 'ours',
};
const CONFIGURATION = `
database: \${DATABASE_URL}
owner_database: "\${OWNER_URL}?sslmode=require"
replication_database: postgres://abide_replication:\${REPLICATION_URL}@\${HOST}/abide
tracing: { endpoint: "http://\${EVERYBODYS}" }
stores:
  crm: { connector: postgres, url: \${CRM_URL}, host: "\${HOST}", scopes: [email] }
  mail: { connector: http, url: "https://\${EVERYBODYS}/", headers: { Authorization: \${MAIL_SECRET} }, scopes: [email] }
`;
const without = (...names: (keyof typeof ENV)[]) =>
  Object.fromEntries(Object.entries(ENV).filter(([name]) => !(names as string[]).includes(name)));

test("a worker has its own store's secrets, and neither the ledger's nor another store's", () => {
  const ledgers = ['ABIDE_KEYS', 'ABIDE_ADMIN_KEY', 'DATABASE_URL', 'OWNER_URL', 'REPLICATION_URL'] as const;
  expect(environmentOfWorker(ENV, 'crm', CONFIGURATION)).toEqual(without(...ledgers, 'MAIL_SECRET'));
  expect(environmentOfWorker(ENV, 'mail', CONFIGURATION)).toEqual(without(...ledgers, 'CRM_URL', 'HOST'));
});

test('a variable of the ledger that its store names as well stays with a worker', () => {
  const text = 'database: ${DATABASE_URL}\nstores: { crm: { connector: postgres, url: ${DATABASE_URL} } }';
  expect(environmentOfWorker(ENV, 'crm', text)).toEqual(without('ABIDE_KEYS', 'ABIDE_ADMIN_KEY'));
});

test('of the default configuration a worker has no ring and no administrator', () => {
  expect(environmentOfWorker(ENV, 'crm', undefined)).toEqual(without('ABIDE_KEYS', 'ABIDE_ADMIN_KEY'));
});

test('broker, registry and Connect have what Java takes from a machine, and nothing of ours', () => {
  expect(environmentOfJava(ENV)).toEqual({
    PATH: '/usr/bin',
    HOME: '/home/ada',
    LC_ALL: 'C.UTF-8',
    JAVA_TOOL_OPTIONS: '-Xint',
  });
  expect(environmentOfMaven(ENV)).toEqual(without('ABIDE_KEYS', 'ABIDE_ADMIN_KEY', 'ABIDE_KEY', 'ABIDE_LOG'));
});
