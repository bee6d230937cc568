import type { Knex } from 'knex';

// The function of 0001, but it also refuses a state that lost a date or an opt-out. A comparison with null was never wrong, so the
// API's role could take everybody's dates away. A missing value is compared as one that sorts after or before every date.
const SQL = `
create or replace function subjects_match_decisions() returns trigger language plpgsql as $$
declare
  culprit uuid;
begin
  if tg_op = 'INSERT' then
    select n.id into culprit from now_rows n
      left join lateral (
        select * from decisions d where d.subject_id = n.id and d.version = n.version offset 0) d on true
      where d.seq is null or d.kind <> n.kind
         or array(select jsonb_object_keys(d.suppressed)) <> array(select jsonb_object_keys(n.state)) or array(select jsonb_object_keys(d.granted)) <> array(select jsonb_object_keys(n.granted))
      limit 1;
  else
    select n.id into culprit from now_rows n
      join old_rows o using (id)
      left join lateral (
        select * from decisions d where d.subject_id = n.id and d.version = n.version and n.version > o.version offset 0
      ) d on true
      where n.version < o.version or n.kind <> o.kind
         or (n.version > o.version and (d.seq is null
             or array(select jsonb_object_keys(d.suppressed)) <> array(select jsonb_object_keys(n.state)) or array(select jsonb_object_keys(d.granted)) <> array(select jsonb_object_keys(n.granted))))
         or (n.version = o.version and (n.granted <> o.granted or array(select jsonb_object_keys(n.state)) <> array(select jsonb_object_keys(o.state))
             or exists (select from jsonb_each(o.state) was where
                  coalesce(n.state -> was.key ->> 'first_effective_at', 'z') > was.value ->> 'first_effective_at'
                  or coalesce(n.state -> was.key ->> 'last_effective_at', '') < was.value ->> 'last_effective_at'
                  or coalesce(n.state -> was.key ->> 'opt_out_id', '') <> was.value ->> 'opt_out_id')))
      limit 1;
    if culprit is null and (select count(*) from old_rows) <> (select count(*) from now_rows join old_rows using (id)) then
      raise exception 'a subject keeps its id' using errcode = 'check_violation';
    end if;
  end if;
  if culprit is not null then
    raise exception 'subject % is not what its decision says', culprit using errcode = 'check_violation';
  end if;
  return null;
end $$;
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
