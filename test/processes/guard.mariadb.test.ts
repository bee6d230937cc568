import { Readable } from 'node:stream';
import mysql from '../../connectors/mysql.ts';
import { mariaDbDatabase, withMariaDb } from '../harness/mariadb.ts';
import { describeGuard } from './describe-guard.ts';

describeGuard('mysql', mysql, async () => {
  const database = await mariaDbDatabase();
  return {
    url: database.url,
    query: (sql) => database.query(sql),
    load: (lines) =>
      withMariaDb(database.url, async (connection) => {
        await connection.query({
          sql: `load data local infile 'contacts.csv' into table contacts fields terminated by ','
                (id, email, phone, @may_mail, @no_texts) set may_mail = @may_mail = 't', no_texts = @no_texts = 't'`,
          infileStreamFactory: () => Readable.from(lines.map((line) => Buffer.from(`${line}\n`))),
        });
      }),
    listing: async () => {
      const listing = [];
      for (const [table, columns] of [
        ['tables', 'table_name, table_type, engine, table_collation'],
        ['columns', 'table_name, column_name, column_type, is_nullable, column_default'],
        ['triggers', 'trigger_name, event_manipulation, event_object_table, action_statement'],
        ['routines', 'routine_name, routine_definition'],
      ] as const) {
        const schema =
          table === 'triggers' ? 'trigger_schema' : table === 'routines' ? 'routine_schema' : 'table_schema';
        listing.push(
          await database.query(
            `select ${columns} from information_schema.${table} where ${schema} = database() order by 1, 2`,
          ),
        );
      }
      return listing;
    },
    importer: async () => {
      const url = await database.user('insert, update, select', 'contacts');
      // The connector's suite makes the whole server read-only for a moment.
      const run = (sql: string): Promise<unknown> =>
        withMariaDb(url, (connection) => connection.query(sql)).catch((error: unknown) => {
          if ((error as { errno?: number }).errno === 1290) return run(sql);
          throw error;
        });
      return run;
    },
    reader: () => database.user('select'),
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
});
