import type { Knex } from 'knex';

// Once a pepper was replaced, a process that has an older ring finds nobody, and would answer every check with "send". So whoever
// looks for a person asks this in the same statement.
const SQL = `
create function is_newest_pepper(pepper bigint) returns boolean language plpgsql stable as $$
begin
  if exists (select from key_checks where key_id > pepper and purpose = 'pepper') then
    raise exception 'pepper key % was replaced', pepper using errcode = 'AB001';
  end if;
  return true;
end $$;
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
