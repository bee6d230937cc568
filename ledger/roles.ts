// What the two lesser roles may do: the API records and acknowledges, and takes nothing back; replication reads what is
// captured. The owner migrates and is not used at run time.
import pg from 'pg';
import type { Queryable } from './database.ts';

const id = (name: string): string => pg.escapeIdentifier(name);

/** What the API's role may do besides SELECT and INSERT, per table. Nothing here touches a decision or an audit row. */
const API_TABLES: Readonly<Record<string, string>> = {
  // A trigger checks each new state against its decision. What finds a person is not part of the state: if it could be moved to
  // another key or pepper, everybody would be a stranger to every check.
  subjects: 'update (version, state, granted, sealed, updated_at)',
  // A trigger lets the last three only be erased.
  opt_outs: 'update (first_completed_at, note, evidence, idempotency_key)',
  opt_out_subjects: '',
  decisions: '',
  // A trigger lets it only be erased.
  grants: 'update (idempotency_key)',
  acknowledgements: '',
  audit_log: '',
  key_checks: '',
  stores: 'update',
  api_keys: 'update',
  api_usage: 'update, delete',
  budget_usage: 'update, delete',
  disputes: '',
  disputed_opt_outs: '',
  transport_keys: 'update',
  carried: 'update',
  exceptions: 'update, delete',
  reconciliations: 'update, delete',
  listings: 'update, delete',
  canaries: 'update, delete',
  workers: 'update, delete',
  latency_buckets: 'update, delete',
  idempotency_keys: 'delete',
  imports: 'update, delete',
  import_chunks: 'delete',
  import_errors: 'delete',
  import_seen: 'update, delete',
};

const apiGrants = (role: string): string =>
  Object.entries(API_TABLES)
    .map(([table, more]) => `grant select, insert${more && `, ${more}`} on ${table} to ${role};`)
    .join('\n');

/**
 * The privileges on the database as a whole, which a copy of the database does not have. Public keeps CONNECT, which monitoring
 * may need. It loses temporary tables because they would come before ours in the search path of the function that makes
 * partitions.
 */
export const grantsOnDatabase = (database: string, roles: Iterable<string>): string[] => [
  `revoke create, temporary on database ${id(database)} from public`,
  ...Array.from(roles, (role) => `grant connect on database ${id(database)} to ${id(role)}`),
];

/**
 * Gives both roles exactly what they need, in one transaction: whatever else they were given on our tables is taken
 * away. Run as the owner, under the migration lock (two grants at once fail with "tuple concurrently updated").
 * A role that is the owner itself, as in a database with a single role, has everything and is skipped.
 */
export async function grantPrivileges(
  db: Queryable,
  { apiRole, replicationRole }: { apiRole: string; replicationRole: string },
): Promise<void> {
  const { rows } = await db.query<{ owner: string; database: string }>(
    'select current_user as owner, current_database() as database',
  );
  const { owner, database } = rows[0]!;
  const [api, replication] = [id(apiRole), id(replicationRole)];
  const lesser = new Set([apiRole, replicationRole]);
  lesser.delete(owner);
  const statements = [
    ...grantsOnDatabase(database, lesser),
    'revoke create on schema public from public',
    'revoke execute on function make_acknowledgement_partitions(bigint) from public',
  ];
  for (const role of lesser) {
    statements.push(
      `revoke all on all tables in schema public from ${id(role)}`,
      `revoke all on all sequences in schema public from ${id(role)}`,
      `grant usage on schema public to ${id(role)}`,
    );
  }
  if (apiRole !== owner) {
    statements.push(
      apiGrants(api),
      `grant select, usage on all sequences in schema public to ${api}`,
      `grant execute on function make_acknowledgement_partitions(bigint) to ${api}`,
    );
  }
  if (replicationRole !== owner) {
    statements.push(
      `grant select on decisions to ${replication}`,
      `grant select, insert, delete on abide_heartbeat to ${replication}`,
    );
  }
  // One simple query is one transaction.
  await db.query(statements.join(';\n'));
}
