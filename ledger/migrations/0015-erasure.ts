import type { Knex } from 'knex';

// What may hold a person's address in an opt-out can be erased, and cannot be replaced: the API's role may set these columns to
// nothing, and to nothing else.
const SQL = `
create function refuse_rewriting() returns trigger language plpgsql as $$
begin
  raise exception 'what an opt-out says can be erased, not rewritten' using errcode = 'check_violation';
end $$;
create trigger only_erased before update of note, evidence, idempotency_key on opt_outs for each row
  when (new.note is not null and new.note is distinct from old.note
        or new.evidence is not null and new.evidence is distinct from old.evidence
        or new.idempotency_key is not null and new.idempotency_key is distinct from old.idempotency_key)
  execute function refuse_rewriting();
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
