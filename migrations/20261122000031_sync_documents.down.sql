drop table sync_document_revisions;
drop table sync_documents;
drop function sync_document_removed();
