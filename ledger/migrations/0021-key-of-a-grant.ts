import type { Knex } from 'knex';

// A client may name a consent by the person's address, as it may an opt-out (migration 0015): of a grant its own idempotency key
// can be erased, and nothing else. Whoever was erased before this is so here as well.
const SQL = `
drop trigger never_changed on grants;
create trigger never_changed before delete or truncate on grants execute function refuse_change();
create trigger only_erased before update on grants for each row
  when (new.idempotency_key is not null
        or to_jsonb(new) - 'idempotency_key' is distinct from to_jsonb(old) - 'idempotency_key')
  execute function refuse_change();

update grants g set idempotency_key = null from subjects s
where s.id = g.subject_id and s.sealed is null and g.idempotency_key is not null;
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
