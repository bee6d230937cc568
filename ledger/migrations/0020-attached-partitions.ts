import type { Knex } from 'knex';

// A partition that is created as one locks the whole table against everybody, and waits for whoever reads it, such as a backup of an
// hour, while all acknowledgements wait behind it. One that is attached does neither.
const SQL = `
create or replace function make_acknowledgement_partitions(through bigint) returns void
  language plpgsql security definer set search_path from current as $$
declare
  size constant bigint := 10000000;
begin
  perform pg_advisory_xact_lock(hashtext('abide.acknowledgement_partitions'));
  for n in 0 .. (through / size + 1) loop
    if to_regclass(format('acknowledgements_%s', n)) is null then
      execute format('create table acknowledgements_%s (like acknowledgements including all)', n);
      execute format('alter table acknowledgements attach partition acknowledgements_%s for values from (%s) to (%s)',
                     n, n * size, (n + 1) * size);
    end if;
  end loop;
end $$;
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
