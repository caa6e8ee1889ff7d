drop table login_failures;
drop table sessions;
drop table user_roles;
drop table users;
