// A database of its own on the machine's MariaDB, for a test's store.
import { randomBytes } from 'node:crypto';
import mysql from 'mysql2/promise';

/** Or a MySQL, with `local_infile` on and `log_bin_trust_function_creators` on or no binary log. */
export const MARIADB = process.env['ABIDE_TEST_MARIADB'] ?? 'mysql://root@127.0.0.1:3306';

export type MariaDbDatabase = AsyncDisposable & {
  readonly name: string;
  readonly url: string;
  product(): Promise<'MariaDB' | 'MySQL'>;
  /** Rows of a query as the administrator, in this database. */
  query(sql: string, values?: readonly unknown[]): Promise<Record<string, unknown>[]>;
  /** Another user, with these rights only on this database or on one of its tables; it is gone with the database. */
  user(rights: string, table?: string): Promise<string>;
};

export const mariaDbLine = (): { host: string; port: number } => {
  const { hostname, port } = new URL(MARIADB);
  return { host: hostname, port: Number(port === '' ? 3306 : port) };
};

/** One connection for a few statements. */
export async function withMariaDb<T>(
  url: string,
  work: (connection: mysql.Connection) => Promise<T>,
): Promise<T> {
  const connection = await mysql.createConnection({ uri: url, multipleStatements: true, jsonStrings: true });
  connection.on('error', () => undefined);
  try {
    return await work(connection);
  } finally {
    await connection.end();
  }
}

/**
 * Until its disposal the settings of the server are those of one test: of one that changes them, which change for everybody, or of
 * one that another's would break.
 */
export async function holdSettings(): Promise<AsyncDisposable> {
  const connection = await mysql.createConnection(MARIADB);
  connection.on('error', () => undefined);
  const [rows] = await connection.query("select get_lock('abide_test_settings', 150) as held");
  if ((rows as { held: number }[])[0]?.held !== 1) throw new Error('the settings are held by another test');
  return { [Symbol.asyncDispose]: () => connection.end() };
}

/** Whether the server speaks TLS, with whatever certificate. */
export const hasTls = (uri: string): Promise<boolean> =>
  mysql.createConnection({ uri, ssl: { rejectUnauthorized: false } }).then(
    async (connection) => {
      await connection.end();
      return true;
    },
    (error: unknown) => {
      if ((error as { code?: string }).code === 'HANDSHAKE_NO_SSL_SUPPORT') return false;
      throw error;
    },
  );

/** `await using db = await mariaDbDatabase()`: empty, dropped on disposal. */
export async function mariaDbDatabase(): Promise<MariaDbDatabase> {
  const name = `abide_test_${randomBytes(6).toString('hex')}`;
  const url = Object.assign(new URL(MARIADB), { pathname: name }).href;
  const users: string[] = [];
  // Another collation than ours, as a data team's database may have.
  const asAdministrator = (sql: string) => withMariaDb(MARIADB, (connection) => connection.query(sql));
  await asAdministrator(`create database ${name} character set latin1`);
  const query: MariaDbDatabase['query'] = (sql, values = []) =>
    withMariaDb(url, async (connection) => {
      const [rows] = await connection.query(sql, [...values]);
      return Array.isArray(rows) ? (rows as Record<string, unknown>[]) : [];
    });
  return {
    name,
    url,
    query,
    product: async () => {
      const [row] = await query('select version() as version');
      return String(row!['version']).includes('MariaDB') ? 'MariaDB' : 'MySQL';
    },
    async user(rights, table = '*') {
      const user = `abide_${randomBytes(6).toString('hex')}`;
      users.push(user);
      await asAdministrator(
        `create user ${user}@'127.0.0.1' identified by 'of a test'; grant ${rights} on ${name}.${table} to ${user}@'127.0.0.1'`,
      );
      return Object.assign(new URL(url), { username: user, password: 'of a test' }).href;
    },
    async [Symbol.asyncDispose]() {
      await asAdministrator(`drop database ${name}`);
      for (const user of users) await asAdministrator(`drop user ${user}@'127.0.0.1'`);
    },
  };
}
