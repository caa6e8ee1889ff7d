delete from cdc_slots where creation is null;
alter table cdc_slots
    drop column gap,
    drop column scopes,
    drop column sealed_url,
    drop column manages,
    drop column publication,
    drop column database_name,
    alter column creation set not null;
