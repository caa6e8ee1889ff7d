-- Documents: one row each, deleted ones too, because their revisions count on. Names and ids go by byte order, in which
-- they are listed. Room is left on the pages, so that a new version of a row mostly stands beside the old one and no
-- index is touched.
create table sync_documents (
    application_id text not null,
    environment text not null,
    service text collate "C" not null,
    id text collate "C" not null,
    revision bigint not null,
    data text not null,
    deleted boolean not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    expires_at timestamptz,
    constraint sync_documents_pkey primary key (application_id, environment, service, id),
    constraint sync_documents_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
) with (fillfactor = 60);

create index sync_documents_due on sync_documents (expires_at) where expires_at is not null and not deleted;

-- What each revision changed: `diff` as it was told, `undo` the operations that lead back. Without a reference to the
-- document, which would be checked with every write; who removes documents removes these.
create table sync_document_revisions (
    application_id text not null,
    environment text not null,
    service text collate "C" not null,
    id text collate "C" not null,
    revision bigint not null,
    change text not null,
    diff text not null,
    undo text not null,
    event_id text not null,
    created_at timestamptz not null,
    constraint sync_document_revisions_pkey primary key (application_id, environment, service, id, revision)
);

-- Rows come in the order of their time: a small index by blocks is enough to find the old ones.
create index sync_document_revisions_by_age on sync_document_revisions using brin (created_at);

create function sync_document_removed() returns trigger language plpgsql as $$
begin
    delete from sync_document_revisions r
    using removed d
    where r.application_id = d.application_id and r.environment = d.environment
      and r.service = d.service and r.id = d.id;
    return null;
end
$$;

create trigger sync_documents_removed after delete on sync_documents
    referencing old table as removed for each statement execute function sync_document_removed();
