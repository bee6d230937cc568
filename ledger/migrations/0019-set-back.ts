import type { Knex } from 'knex';

// A database that was set back under a running process does not know a pepper that it was given since. Whoever is recorded under it
// would not be found by the process that starts next, with the ring that belongs to the database.
const SQL = `
create or replace function is_newest_pepper(pepper bigint) returns boolean language plpgsql stable as $$
begin
  if exists (select from key_checks where key_id > pepper and purpose = 'pepper') then
    raise exception 'pepper key % was replaced', pepper using errcode = 'AB001';
  end if;
  if not exists (select from key_checks where key_id = pepper and purpose = 'pepper') then
    raise exception 'pepper key % is not known', pepper using errcode = 'AB002';
  end if;
  return true;
end $$;

create index audit_log_set_back on audit_log (seq) where action in ('ledger.set_back', 'ledger.restored');
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
