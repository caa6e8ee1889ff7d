drop trigger applications_version on applications;
drop trigger signing_keys_version on signing_keys;
drop table subject_revocations;
drop table token_revocations;
drop table api_keys;
drop function bump_auth_version();
drop table auth_version;
