alter table cdc_slots drop column allow_private;
